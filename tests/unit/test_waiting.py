"""Waiting for workers: which deaths are of loading, told by process ids alone."""

from __future__ import annotations

from typing import Any

import pytest

from torchmar.client import ModelVersion
from torchmar.client._management import Management
from torchmar.errors import WorkerFailedToLoad

from .servers_in_memory import version, worker


class Describing(Management):
    """Describes a model as one of these after the other: its worker's process, and whether it is READY."""

    def __init__(self, *looks: tuple[int, bool]) -> None:
        super().__init__(None, sleep=lambda _: None)  # type: ignore[arg-type]
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
