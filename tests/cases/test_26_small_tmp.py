"""A disk too small: that of the temporary folder, into which TorchServe unpacks, or where it runs."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from torchmar.client import KeyFile, connect
from torchmar.errors import ServerFailed
from torchmar.server import find_running, unpacking

from ..live.servers import make_stranger
from .serving import ECHO, Typed, small_disk

LARGE = 30_000_000


@pytest.fixture
def torchmar(tmp_path: Path) -> Iterator[Typed]:
    """TMPDIR has room for a small archive, and none for a large one."""
    with tempfile.TemporaryDirectory(dir="/tmp") as short, small_disk(Path(short, "t"), 16) as disk:
        typed = Typed(tmp_path / "served", TMPDIR=str(disk))
        with zipfile.ZipFile(make_stranger(typed.store, "large", ECHO), "a") as archive:
            archive.writestr("weights.bin", bytes(LARGE))
        yield typed
        typed.end()


@pytest.mark.live
def test_an_archive_that_does_not_fit_when_it_is_unpacked(torchmar: Typed) -> None:
    """doctor and register know the disk, and tell both numbers; others are served."""
    said = torchmar("doctor", code=1)
    assert "large-1.0.mar" in said
    assert "does not fit where it would be unpacked: 30." in said
    assert "MB are needed, and 16." in said
    torchmar("serve")
    running = find_running(torchmar.folder)
    assert running is not None
    said = torchmar("register", "large-1.0.mar", code=1)
    assert f"MB are free in {running.temporary}" in said
    assert not list(running.temporary.glob("*.download"))
    assert "echo 1.0: 1 READY" in torchmar("register", "echo-1.0.mar")


@pytest.mark.live
def test_what_was_half_unpacked_is_no_hindrance(torchmar: Typed) -> None:
    """Somebody else took the room meanwhile: what TorchServe leaves is removed, and the next one fits."""
    torchmar("serve")
    running = find_running(torchmar.folder)
    assert running is not None
    addresses: dict[str, Any] = {
        "inference": running.config.inference,
        "management": running.config.management,
    }
    with connect(**addresses, tokens=KeyFile(torchmar.folder / "key_file.json")) as server:
        with pytest.raises(ServerFailed, match="Failed to save model"):
            server.management.register("large-1.0.mar")
        assert list(running.temporary.glob("models*.download"))
        with (
            pytest.raises(ServerFailed, match="What it had begun to unpack was removed"),
            unpacking(running, "large-1.0.mar", []),
        ):
            server.management.register("large-1.0.mar")
        assert not list(running.temporary.glob("models*.download"))
        with pytest.raises(ServerFailed, match="Failed to save model"):
            server.management.register("large-1.0.mar")
    assert "echo 1.0: 1 READY" in torchmar("register", "echo-1.0.mar")
    assert not list(running.temporary.glob("models*.download"))


def test_a_full_disk_where_it_is_started(tmp_path: Path) -> None:
    """One error that says which disk, and nothing is begun."""
    with small_disk(tmp_path / "disk", 4) as disk:
        torchmar = Typed(disk / "served")
        with (disk / "filler").open("wb", buffering=0) as filler:
            while True:
                try:
                    filler.write(bytes(4096))
                except OSError:
                    break
        said = torchmar("serve", code=1)
        assert "error: " in said
        assert "the disk is full" in said
        assert len(said.splitlines()) == 1
        assert "the disk is full" in torchmar("doctor", "--no-load", code=1)
