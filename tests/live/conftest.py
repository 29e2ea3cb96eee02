"""Fixtures of the live tests: servers that end with their test, or with their file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .servers import Live, StartServer, starter


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is live."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.live)


@pytest.fixture
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """Starts servers that end with the test."""
    with ExitStack() as stack:
        yield starter(stack, tmp_path_factory)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One server for all tests of a file; each registers models under names of its own."""
    with ExitStack() as stack:
        yield starter(stack, tmp_path_factory)()


@pytest.fixture(scope="module")
def tiny(server: Live, tiny_eager: Path, tiny_onnx: Path) -> Live:
    """The file's server with both versions of the tiny model READY, 1.0 (eager) the default."""
    for archive, version in ((tiny_eager, "1.0"), (tiny_onnx, "2.0")):
        server.serve(server.put(archive), version)
    return server
