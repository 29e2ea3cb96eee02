"""What all tests share: a tiny model, and archives built from it once."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchmar.archive import build
from torchmar.spec import load_model

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "tests" / "models" / "tiny"


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model store with tiny-1.0.mar (eager) and tiny-2.0.mar (ONNX). Read it, do not change it."""
    store = tmp_path_factory.mktemp("tiny-store")
    build(load_model(TINY, {"version": "1.0", "runtime": "eager"}), store)
    build(load_model(TINY, {"version": "2.0", "runtime": "onnx"}), store)
    return store


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model store with the folders tiny-1.0 (eager) and tiny-2.0 (ONNX). Read it, do not change it."""
    store = tmp_path_factory.mktemp("tiny-folders")
    build(load_model(TINY, {"version": "1.0", "runtime": "eager"}), store, directory=True)
    build(load_model(TINY, {"version": "2.0", "runtime": "onnx"}), store, directory=True)
    return store


@pytest.fixture(scope="session")
def tiny_eager(tiny_store: Path) -> Path:
    """The tiny model as it is, in a .mar."""
    return tiny_store / "tiny-1.0.mar"


@pytest.fixture(scope="session")
def tiny_onnx(tiny_store: Path) -> Path:
    """The tiny model as ONNX, in a .mar."""
    return tiny_store / "tiny-2.0.mar"
