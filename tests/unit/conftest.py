"""A site of servers in memory, for all that is released to them; unpacked archives of a few lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from torchmar.release import Fleet, Host

from .servers_in_memory import Clock, Fake, FleetOf, as_server
from .strangers import FUNCTION, Folder, write_folder


@pytest.fixture
def fleet_of(tmp_path: Path) -> FleetOf:
    def make(*fakes: Fake) -> Fleet:
        clock = Clock()
        for one in fakes:
            one.clock = clock
        hosts = tuple(Host(one.name, as_server(one)) for one in fakes)
        return Fleet(hosts, tmp_path / "releases", clock=clock, sleep=clock.sleep)

    return make


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Makes what an unpacked archive is: a manifest, a handler, other files by their path."""
    count = iter(range(100))

    def make(
        code: str | None = FUNCTION,
        handler: str | None = "handler",
        files: dict[str, str] | None = None,
        **model: Any,
    ) -> Path:
        return write_folder(tmp_path / f"archive{next(count)}", code, handler, files, model)

    return make
