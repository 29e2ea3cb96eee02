"""What an interrupted scaling or repair leaves: a standby; how it is ended. Against a server in memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from torchmar.client import ModelVersion, Server
from torchmar.errors import ReleaseError, WorkerFailedToLoad
from torchmar.workers import (
    WaitPolicy,
    end_standby,
    process_alive,
    repair,
    scale,
    standby_of,
    stood_in_for,
)

from .. import fake_server
from ..fake_server import as_server, version, worker


class Fake(fake_server.Fake):
    """A model `m` with these versions; `steps` are those that its pace was told."""

    def __init__(self, default: str, *versions: ModelVersion) -> None:
        super().__init__("local", default, {one.version: one for one in versions})
        self.steps: list[str] = []

    @property
    def server(self) -> Server:
        return as_server(self)

    def pace(self) -> WaitPolicy:
        return WaitPolicy(longest=1.0, clock=self.clock, sleep=self.clock.sleep, on_step=self.steps.append)


DEAD = version("1.0", workers=(worker(0, ready=False), worker(1, ready=False)))
ENDED = ["default-back", "drain-standby", "unregister-standby", "remove-standby"]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "m-1.0-standby").mkdir()
    (tmp_path / "m-1.0.mar").touch()
    return tmp_path


def test_a_standby_is_named_after_its_version() -> None:
    assert stood_in_for(standby_of("1.0")) == "1.0"
    assert stood_in_for("1.0") == "1.0"


def test_one_that_was_left_is_ended(store: Path) -> None:
    """The version is the default again, and nothing is left; to do it again does nothing."""
    fake = Fake("1.0-standby", version("1.0"), version("1.0-standby"))
    end_standby(fake.server, store, "m", "1.0", fake.pace())
    assert (fake.default, list(fake.all)) == ("1.0", ["1.0"])
    assert fake.steps == ENDED
    assert [path.name for path in store.iterdir()] == ["m-1.0.mar"]
    end_standby(fake.server, store, "m", "1.0", fake.pace())
    assert fake.steps == ENDED


def test_one_that_is_not_the_default_leaves_the_default_alone(store: Path) -> None:
    """Somebody else has set it meanwhile."""
    fake = Fake("2.0", version("1.0"), version("2.0"), version("1.0-standby"))
    end_standby(fake.server, store, "m", "1.0", fake.pace())
    assert (fake.default, list(fake.all), fake.steps) == ("2.0", ["1.0", "2.0"], ENDED[1:])


def test_one_goes_on_where_only_it_can_answer(store: Path) -> None:
    """A default without a READY worker would answer nobody."""
    fake = Fake("1.0-standby", DEAD, version("1.0-standby"))
    with pytest.raises(ReleaseError, match="torchmar repair m"):
        end_standby(fake.server, store, "m", "1.0", fake.pace())
    assert (fake.default, list(fake.all)) == ("1.0-standby", ["1.0", "1.0-standby"])
    assert (store / "m-1.0-standby").exists()


def test_repair_goes_on_from_there(store: Path) -> None:
    """The version's workers are replaced while its standby answers, which then is ended."""
    fake = Fake("1.0-standby", DEAD, version("1.0-standby"))
    told = repair(fake.server, store, "m", pace=fake.pace(), patience=0)
    assert (told.version, told.replaced, told.workers) == ("1.0", ("9000", "9001"), 2)
    assert (fake.default, list(fake.all), fake.all["1.0"].ready_workers) == ("1.0", ["1.0"], 2)
    assert fake.steps == ["drain", "scale-to-0", "scale", *ENDED]


def test_scaling_begins_with_ending_one_that_was_left(store: Path) -> None:
    """And is meant for the version, not for its standby."""
    fake = Fake("1.0-standby", version("1.0"), version("1.0-standby"))
    found = scale(fake.server, store, "m", 3, fake.pace())
    assert (found.version, found.ready_workers, list(fake.all)) == ("1.0", 3, ["1.0"])
    assert fake.steps == [*ENDED, "scale"]


def test_dead_for_a_moment_is_not_dead(store: Path) -> None:
    """TorchServe starts a worker again by itself, for as long as the archive says: that is waited for."""
    fake = Fake("1.0", replace(DEAD, max_retry_timeout=30))

    def sleep(seconds: float) -> None:
        fake.clock.sleep(seconds)
        if fake.clock.now > 20:
            fake.all["1.0"] = version("1.0", workers=(worker(0, pid=200), worker(1, pid=201)))

    pace = WaitPolicy(clock=fake.clock, sleep=sleep)
    told = repair(fake.server, store, "m", pace=pace, alive=lambda _: False)
    assert (told.replaced, fake.steps) == ((), [])
    assert 20 <= told.seconds < 21


def test_a_worker_that_dies_again_and_again_is_not_well(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is dead for good, and none answers: what it dies of is told, and nothing is replaced."""
    fake = Fake("1.0", version("1.0", workers=(worker(ready=False),)))

    def dies(*_: Any, **__: Any) -> None:
        raise WorkerFailedToLoad("m 1.0: its worker died while loading: KeyError: 'x'", "KeyError: 'x'")

    monkeypatch.setattr(fake, "wait_until_ready", dies)
    with pytest.raises(WorkerFailedToLoad, match=r"torchmar rollback m.*: KeyError: 'x'") as caught:
        repair(fake.server, store, "m", pace=fake.pace(), alive=lambda _: True)
    assert caught.value.reason == "KeyError: 'x'"
    assert "scale" not in fake.steps


def test_repair_ends_one_that_was_left_where_nothing_is_dead(store: Path) -> None:
    """Killed after the workers were replaced."""
    fake = Fake("1.0-standby", version("1.0"), version("1.0-standby"))
    told = repair(fake.server, store, "m", pace=fake.pace())
    assert (told.replaced, fake.default, list(fake.all)) == ((), "1.0", ["1.0"])


def test_repair_goes_on_where_no_worker_is_left(store: Path) -> None:
    """Killed between the end of the old workers and the start of the new ones."""
    two = (worker(0), worker(1))
    fake = Fake("1.0-standby", version("1.0", workers=()), version("1.0-standby", workers=two))
    repair(fake.server, store, "m", pace=fake.pace())
    assert (fake.default, list(fake.all), fake.all["1.0"].ready_workers) == ("1.0", ["1.0"], 2)


def until(true: Callable[[], bool]) -> bool:
    """Whether something becomes true within 30 seconds."""
    end = time.monotonic() + 30
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    return true()


def test_another_program_with_a_worker_s_number_is_no_worker() -> None:
    """Numbers of processes are used again: a dead worker is not there because its number is."""
    code = [
        sys.executable,
        "-c",
        "input()",
        "/site-packages/ts/model_service_worker.py",
        "--sock-type",
        "unix",
    ]
    with subprocess.Popen(code, stdin=subprocess.PIPE) as child:
        assert until(lambda: process_alive(child.pid)), "it has no arguments until it runs"
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not process_alive(child.pid), "it waits for its parent to ask what came of it"
    assert not process_alive(child.pid)
    assert not process_alive(os.getpid())
