"""A release that kills its own process, as `kill -9` would, before or after one entry of the journal."""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from torchmar import mar
from torchmar.client import connect
from torchmar.release import Fleet, Host, Options, release
from torchmar.release._journal import Journal

from .servers import Live

# Each is forked from a process which has imported all that a release takes: there are many of them.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([__name__])


@dataclass(frozen=True)
class Told:
    """What the process that dies is told: it shares nothing with its test but the disk."""

    servers: dict[str, dict[str, Any]]  # host: arguments of `connect`, and its model store
    archive: Path
    options: Options
    journal: Path
    entry: int  # it dies there, counted from 0,
    before: bool  # before it is written or after it
    flag: Path | None  # made when the watch begins


def kill_release(
    servers: dict[str, Live],
    archive: Path,
    options: Options,
    journal: Path,
    entry: int,
    *,
    before: bool = False,
    flag: Path | None = None,
) -> int:
    """Release to these hosts in a process that kills itself there; its exit code."""
    reached = {name: _how_to_reach(live) for name, live in servers.items()}
    told = Told(reached, archive, options, journal, entry, before, flag)
    process = _FORKS.Process(target=_release_until, args=(told,))
    process.start()
    process.join(timeout=60)
    if process.exitcode is None:
        process.kill()
        pytest.fail("it hangs")
    return process.exitcode


def _how_to_reach(live: Live) -> dict[str, Any]:
    config = live.running.config
    addresses = {"inference": config.inference, "management": config.management, "metrics": config.metrics}
    return {**addresses, "key_file": live.running.key_file, "store": live.store}


def _release_until(told: Told) -> None:
    append = Journal.append
    count = 0

    def counted(self: Journal, *arguments: Any, **more: Any) -> Any:
        nonlocal count
        if told.before and count == told.entry:
            os.kill(os.getpid(), signal.SIGKILL)
        entry = append(self, *arguments, **more)
        if told.flag and (entry.event, entry.step) == ("begin", "watch"):
            told.flag.touch()
        if not told.before and count == told.entry:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1
        return entry

    Journal.append = counted  # type: ignore[method-assign]
    hosts = tuple(_host(name, **reached) for name, reached in told.servers.items())
    release(Fleet(hosts, told.journal), mar.verify(told.archive), told.options)


def _host(name: str, store: Path, **reached: Any) -> Host:
    return Host(name, connect(**reached), store, local=True)
