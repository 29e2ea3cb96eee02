"""Waiting for workers: which deaths are of loading, told by process ids alone."""

from __future__ import annotations

from typing import Any

import pytest

from torchmar.client import ModelVersion
from torchmar.errors import WorkerFailedToLoad

from .servers_in_memory import Fake, version, worker


class Describing(Fake):
    """Describes a model as one of these after the other: its worker's process, and whether it is READY."""

    def __init__(self, *looks: tuple[int, bool]) -> None:
        super().__init__()
        self._looks = iter(looks)

    def describe(self, *_: Any, **__: Any) -> ModelVersion:
        pid, ready = next(self._looks)
        return version(workers=(worker(pid=pid, ready=ready),))


def test_a_process_that_is_replaced_while_it_loads_has_died() -> None:
    """It was not there when the waiting began, and was never READY."""
    with pytest.raises(WorkerFailedToLoad):
        Describing((-1, False), (10, False), (11, False)).wait_until_ready("m")


def test_a_process_that_may_have_served_may_be_replaced() -> None:
    """A worker that died with a request in hand is listed until TorchServe has started it again."""
    assert Describing((10, False), (11, False), (11, True)).wait_until_ready("m").workers[0].pid == 11


def test_what_replaces_it_must_load() -> None:
    """Its replacement that is replaced died while it was loading."""
    with pytest.raises(WorkerFailedToLoad):
        Describing((10, False), (11, False), (12, False)).wait_until_ready("m")


def test_as_many_are_waited_for_as_were_asked_for() -> None:
    """Also for those to end that are too many: they may still be asked."""
    fake = Fake(default="1.0", all={"1.0": version(workers=(worker(0), worker(1)))})

    def ends(seconds: float) -> None:
        fake.clock.sleep(seconds)
        if fake.clock() > 5:
            fake.scale("m", 1, "1.0")

    found = fake.wait_until_ready("m", "1.0", workers=1, sleep=ends)
    assert len(found.workers) == 1
    assert fake.clock() > 5
    assert len(fake.wait_until_ready("m", "1.0").workers) == 1
