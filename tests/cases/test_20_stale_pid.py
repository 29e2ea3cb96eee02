"""A noted process number that is another folder's server by now."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest

from torchmar.server import find_running

from .serving import Typed

pytestmark = pytest.mark.live


@pytest.mark.parametrize("noted", ["number", "number and start"])
def test_stop_leaves_the_server_of_another_folder_alone(tmp_path: Path, noted: str) -> None:
    """As after the restart of a container; or where a folder was copied with all that is noted in it."""
    one, other = Typed(tmp_path / "one"), Typed(tmp_path / "other")
    try:
        one("serve")
        content = json.loads((one.folder / "logs" / "server.json").read_text(encoding="utf-8"))
        content |= {"config": str(other.config.path), "temporary": "/tmp/torchmar-gone0000"}
        if noted == "number":
            del content["started"]
        (other.folder / "logs").mkdir()
        (other.folder / "logs" / "server.json").write_text(json.dumps(content), encoding="utf-8")
        assert "no TorchServe that was started in" in other("stop")
        assert "has ended without `torchmar stop`" in other("status", code=1)
        second = other.json("serve")["pid"]
        assert second != content["pid"]
        assert f"(process {second}) has stopped" in other("stop")
        assert psutil.pid_exists(content["pid"])
        running = find_running(one.folder)
        assert running is not None
        assert running.pid == content["pid"]
        assert "Healthy" in one("status")
    finally:
        one.end()
        other.end()
