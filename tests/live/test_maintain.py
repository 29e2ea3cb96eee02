"""Maintenance on a real server: a candidate is released, a killed run goes on, a rollback is respected."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.maintained import write_rows, write_sums
from torchmar.archive import build
from torchmar.release import history
from torchmar.release._journal import Journal
from torchmar.server import find_running, stop
from torchmar.spec import load_model

from .test_commands import Commands

# torchmar's command, ended as by `kill -9` where it would make the candidate the default.
KILLED_BEFORE_THE_SWITCH = """
import os
from unittest.mock import patch
from torchmar.cli import main
from torchmar.client import Management
with patch.object(Management, "set_default", lambda *_: os.kill(os.getpid(), 9)):
    main()
"""


@pytest.fixture
def torchmar(tmp_path: Path) -> Iterator[Commands]:
    commands = Commands(tmp_path)
    commands("serve")
    yield commands
    running = find_running(commands.folder)
    if running is not None:
        stop(running, timeout=0)


def test_from_new_data_to_a_released_version(torchmar: Commands) -> None:
    """Killed at the switch it goes on; rolled back, it is not released again."""
    folder = write_sums(torchmar.above / "sums")
    archive = build(load_model(folder), torchmar.store).archive.path
    torchmar("register", archive.name)
    write_rows(torchmar.above / "new.csv", 200, seed=5, middle=5)

    def typed(data: str) -> list[str]:
        old = ["--train", "sums/train.csv", "--test", "sums/test.csv"]
        training = ["--epochs", "60", "--learning-rate", "0.05"]
        return ["maintain", "sums", "--data", data, *old, *training, "--yes"]

    killed = subprocess.run(
        [sys.executable, "-c", KILLED_BEFORE_THE_SWITCH, *typed("new.csv"), "--dir", "served"],
        cwd=torchmar.above,
        check=False,
        timeout=300,
    )
    assert killed.returncode == -9
    assert [one["version"] for one in torchmar.json("status")["models"] if one["default"]] == ["1.0"]
    said = torchmar(*typed("new.csv"), code=10)
    assert "sums 1.1 is the default" in said
    torchmar("rollback", "sums")
    said = torchmar(*typed("new.csv"), code=13)
    assert "1.1 was released before, and it was rolled back" in said
    records = history(Journal(torchmar.folder / "releases", "sums")).records
    assert [(one.version, one.outcome) for one in records if one.kind == "release"] == [("1.1", "promoted")]
