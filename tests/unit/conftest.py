"""A site of servers in memory, for all that is released to them."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from torchmar.client import Server
from torchmar.release import Host, Site

from .servers_in_memory import Clock, Fake, SiteOf


@pytest.fixture
def site_of(tmp_path: Path) -> SiteOf:
    def make(*fakes: Fake) -> Site:
        clock = Clock()
        hosts = tuple(Host(one.name, cast("Server", one)) for one in fakes)
        return Site(hosts, tmp_path / "releases", clock=clock, sleep=clock.sleep)

    return make
