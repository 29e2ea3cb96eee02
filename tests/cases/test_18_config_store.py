"""config.properties names the model store, and what to load from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from .serving import Typed

pytestmark = pytest.mark.live


def test_the_store_that_the_file_names_is_used(tmp_path: Path) -> None:
    """By all commands, also where there is an empty model_store beside it; and what it names is loaded."""
    torchmar = Typed(tmp_path / "served")
    torchmar.store.rename(torchmar.folder / "archives")
    torchmar.store.mkdir()
    changes = {"model_store": "archives", "load_models": "all"}
    torchmar.config.with_settings(changes).write(torchmar.folder / "config.properties")
    assert "archives/echo-1.0.mar" in torchmar("doctor")
    try:
        assert f"{torchmar.folder / 'archives'} (model_store of config.properties)" in torchmar("serve")
        assert [row["name"] for row in torchmar.json("status")["models"]] == ["echo"]
        assert "already registered" in torchmar("register", "archives/echo-1.0.mar", code=1)
    finally:
        torchmar.end()


def test_the_option_wins(tmp_path: Path) -> None:
    """As TorchServe's own does; and which one is used is said."""
    torchmar = Typed(tmp_path / "served")
    torchmar.config.with_settings({"model_store": "nowhere"}).write(torchmar.folder / "config.properties")
    assert "nowhere: no such folder" in torchmar("serve", code=1)
    try:
        said = torchmar("serve", "--model-store", "model_store")
        assert f"archives   {torchmar.store}\n" in said
        assert "echo 1.0: 1 READY" in torchmar("register", "echo-1.0.mar")
    finally:
        torchmar.end()
