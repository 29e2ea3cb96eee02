"""What all tests share: a tiny model, and archives built from it once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

from torchmar.archive import build
from torchmar.spec import load_model

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "tests" / "models" / "tiny"

# No test asserts a time: a busy machine takes many times as long for one example.
settings.register_profile("torchmar", settings(deadline=None))
settings.load_profile("torchmar")


def pytest_configure() -> None:
    """Processes that run tests at the same time choose their servers' ports from ranges of their own.

    Servers live for seconds here: Java's second compiler, which makes them faster in the long run, would take
    a third of their time.
    """
    os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")
    process = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    if process and "TORCHMAR_FREE_PORTS" not in os.environ:
        each = 12_000 // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        first = 20_000 + each * int(process)
        os.environ["TORCHMAR_FREE_PORTS"] = f"{first}-{first + each - 1}"


MakeOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory) -> MakeOnce:
    """Fills a folder of the given name once, whichever of the run's processes needs it first."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder = shared / name
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                begun = Path(tempfile.mkdtemp(dir=shared))
                fill(begun)
                begun.rename(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_store(make_once: MakeOnce) -> Path:
    """A model store with tiny-1.0.mar (eager) and tiny-2.0.mar (ONNX). Read it, do not change it."""
    return make_once("tiny-store", partial(_build_tiny, directory=False))


@pytest.fixture(scope="session")
def tiny_folders(make_once: MakeOnce) -> Path:
    """A model store with the folders tiny-1.0 (eager) and tiny-2.0 (ONNX). Read it, do not change it."""
    return make_once("tiny-folders", partial(_build_tiny, directory=True))


def _build_tiny(store: Path, *, directory: bool) -> None:
    build(load_model(TINY, {"version": "1.0", "runtime": "eager"}), store, directory=directory)
    build(load_model(TINY, {"version": "2.0", "runtime": "onnx"}), store, directory=directory)


@pytest.fixture(scope="session")
def tiny_eager(tiny_store: Path) -> Path:
    """The tiny model as it is, in a .mar."""
    return tiny_store / "tiny-1.0.mar"


@pytest.fixture(scope="session")
def tiny_onnx(tiny_store: Path) -> Path:
    """The tiny model as ONNX, in a .mar."""
    return tiny_store / "tiny-2.0.mar"
