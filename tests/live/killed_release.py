"""A release that kills its own process, as `kill -9` would, before or after one entry of the journal."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from torchmar import mar
from torchmar.client import connect
from torchmar.release import Host, Journal, Site, release

from .candidates import UNJUDGED


def release_until(told: dict[str, Any]) -> None:
    """Release until it is time to die. The file `flag` is made when the watch begins."""
    append = Journal.append
    count = 0

    def counted(self: Journal, *arguments: Any, **more: Any) -> Any:
        nonlocal count
        if told["before"] and count == told["entry"]:
            os.kill(os.getpid(), signal.SIGKILL)
        entry = append(self, *arguments, **more)
        if told.get("flag") and (entry.event, entry.step) == ("begin", "watch"):
            Path(told["flag"]).touch()
        if not told["before"] and count == told["entry"]:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1
        return entry

    Journal.append = counted  # type: ignore[method-assign]
    with connect(**told["server"]) as server:
        host = Host("local", server, Path(told["store"]), local=True)
        site = Site((host,), Path(told["journal"]))
        release(site, mar.verify(told["archive"]), UNJUDGED)
