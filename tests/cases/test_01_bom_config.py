"""A config.properties saved with a byte order mark: its first setting counts all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchmar.server import find_running

from .serving import Typed

pytestmark = pytest.mark.live


def test_a_server_listens_where_the_first_setting_says(tmp_path: Path) -> None:
    """Java takes the mark into the setting's name; so it is given a copy without, and that is said."""
    torchmar = Typed(tmp_path / "served")
    file = torchmar.folder / "config.properties"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert "byte order mark: TorchServe does not find or misreads inference_address" in torchmar("doctor")
    try:
        assert "This server reads a corrected copy" in torchmar("serve")
        running = find_running(torchmar.folder)
        assert running is not None
        assert running.config.inference == torchmar.config.inference
        assert "echo 1.0: 1 READY" in torchmar("register", "echo-1.0.mar")
    finally:
        torchmar.end()
