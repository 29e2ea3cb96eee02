"""Kill -9 at every entry of the journal, for each shape that a release can have; against servers in memory.

With real servers this is done by tests/live/test_release_killed.py, where not every shape has each entry.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from math import inf
from pathlib import Path
from typing import Any, cast

import pytest

from torchmar.errors import ReleaseError
from torchmar.release import Fleet, history, resume, rollback
from torchmar.release import _release as release_module
from torchmar.release._canary import CANARY as CANARY_STEP
from torchmar.release._canary import end_canary, router_of, share_of
from torchmar.release._gate import CandidateRun
from torchmar.release._journal import Journal
from torchmar.routers.nginx import described

from .servers_in_memory import ARCHIVE, QUICK, Fake, FleetOf, serving, write

STEPS = ("copy", "register", "ready", "warm", "gate", "default", "watch")
CANARY = (*STEPS[:5], "shadow", "canary 5", "canary 50", "default", "nginx", "watch")


@dataclass(frozen=True)
class Shape:
    """A release: to which servers, by which steps, and the one that fails."""

    hosts: str = "a"
    steps: tuple[str, ...] = STEPS
    default: str | None = "1.0"
    fails: tuple[str, str] | None = None


SHAPES = {
    "one server": Shape(),
    "the first version": Shape(default=None),
    "what fails the gate": Shape(fails=("a", "gate")),
    "what fails the watch": Shape(fails=("a", "watch")),
    "shadow, canary and nginx": Shape(steps=CANARY),
    "what fails the canary": Shape(steps=CANARY, fails=("a", "canary 50")),
    "three servers": Shape(hosts="abc"),
    "what fails on the last server": Shape(hosts="ab", fails=("b", "watch")),
}


class Killed(BaseException):
    """Nothing is done after it, not even to clean up."""


class Killing:
    """Ends what is run, as far as it can be seen from outside, before or after an entry of the journal."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._left: float = inf  # so many entries are still written
        self._is_dead = False
        append = Journal.append

        def counted(journal: Journal, *arguments: Any, **more: Any) -> Any:
            if self._left <= 0:
                self._is_dead = True
                raise Killed
            self._left -= 1
            entry = append(journal, *arguments, **more)
            if self._left == 0 and not self._is_before:
                self._is_dead = True
                raise Killed
            return entry

        monkeypatch.setattr(Journal, "append", counted)
        monkeypatch.setattr(os, "fsync", lambda _: None)  # thousands of them, and the power stays on

    def run(self, act: Callable[[], Any], entries: int, *, before: bool) -> bool:
        """Whether it was killed, after so many entries or `before` the next one."""
        self._left, self._is_before, self._is_dead = entries, before, False
        with suppress(Killed):
            act()
        self._left = inf
        return self._is_dead


@pytest.mark.parametrize("way", ["resume", "rollback"])
@pytest.mark.parametrize("name", SHAPES)
def test_killed_at_every_entry(
    fleet_of: FleetOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, way: str
) -> None:
    """Afterwards all servers have one default, the same, with a worker; no version and no share is left."""
    shape, killing = SHAPES[name], Killing(monkeypatch)
    nginx = tmp_path / "nginx.conf"
    canaried = replace(QUICK, canary=(5.0, 50.0), nginx=str(nginx), access_log=str(tmp_path / "log"))
    options = canaried if shape.steps is CANARY else QUICK
    monkeypatch.setattr(release_module, "run_step", partial(take, fails=shape.fails))
    monkeypatch.setattr(release_module, "_archive_of", lambda *_: ARCHIVE)
    for entries, before in ((entries, before) for entries in count(1) for before in (False, True)):
        where = f"{way} after being killed {'before the one after' if before else 'after'} entry {entries}"
        fakes = [serving("1.0", "1.0", name=one) if shape.default else Fake(one) for one in shape.hosts]
        nginx.unlink(missing_ok=True)
        fleet: Fleet = replace(fleet_of(*fakes), folder=tmp_path / f"{entries}{before}")
        steps = {host: list(shape.steps) for host in shape.hosts}
        write(fleet, steps=steps, workers=dict.fromkeys(shape.hosts, 1), options=options.as_json())
        was_killed = killing.run(partial(resume, fleet, "m"), entries, before=before)
        is_back = shape.fails is not None
        if history(fleet.journal("m")).unfinished is not None:
            is_back = is_back or way == "rollback"
            outcome = resume(fleet, "m").outcome if way == "resume" else rollback(fleet, "m").outcome
            assert outcome in ({"undone", "failed"} if is_back else {"promoted"}), where
        expected = [shape.default] if is_back else [shape.default, "2.0"]
        require(fleet, fakes, [one for one in expected if one is not None], where)
        share = described(nginx.read_text()) if nginx.exists() else None
        assert share is None or (share.percent, share.default) == (0, None), where
        if not was_killed:
            assert entries > len(shape.steps), "there are so many entries at least"
            return


def take(work: CandidateRun, step: str, fails: tuple[str, str] | None) -> str:
    """What a step does to a server in memory."""
    fake = cast("Fake", work.host.server)
    if step == "register" and "2.0" not in fake.all:
        fake.register("m-2.0.mar", initial_workers=1)
    elif step.startswith(CANARY_STEP):
        router = router_of(work.options)
        assert router is not None
        router.set_share(share_of(work.host, "m", "2.0", 5, work.default or ""))
    elif step == "nginx":
        end_canary(work)
    elif step == "default":
        assert "2.0" in fake.all
        fake.set_default("m", "2.0")
    if fails == (work.host.name, step):
        raise ReleaseError("it is not good")
    return step


def require(fleet: Fleet, fakes: list[Fake], versions: list[str], where: str) -> None:
    """All serve just these, the last one as the default; and the journal says so."""
    default = versions[-1] if versions else None
    past = history(fleet.journal("m"))
    assert past.unfinished is None, where
    for fake in fakes:
        assert (fake.default, list(fake.all)) == (default, versions), where
        assert all(one.ready_workers for one in fake.all.values()), where
        assert past.served[fake.name].default == default, where
