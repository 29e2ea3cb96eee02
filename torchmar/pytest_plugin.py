"""Provide a pytest fixture that tests handlers without a server. It comes with torchmar; import nothing.

::

    def test_my_archive(model_worker):
        worker = model_worker("model_store/mine-1.0.mar")
        [response] = worker.predict([Request.body(b"…")])
        assert response.status == 200
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from .worker import Worker


@pytest.fixture
def model_worker() -> Iterator[Callable[..., Worker]]:
    """Load a .mar, or an unpacked folder, with Worker.load's options; closes it when the test ends."""
    with ExitStack() as stack:

        def load(path: str | Path, **options: Any) -> Worker:
            return stack.enter_context(Worker.load(Path(path), **options))

        yield load
