"""`torchmar` typed in a folder of its own, with the environment that a case is about."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.live.servers import ROOT, make_stranger
from torchmar.server import find_running, free_ports, read_config, stop

ECHO = "def handle(data, context):\n    return None if data is None else ['ok'] * len(data)\n"


class Typed:
    """A folder with torchmar's configuration on free ports, an archive `echo`, and commands typed there."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.store = folder / "model_store"
        self.store.mkdir(parents=True)
        self.environment = {**os.environ, **environment}
        self.config = free_ports(read_config(ROOT / "config.properties")).write(folder / "config.properties")
        make_stranger(self.store, "echo", ECHO)

    def __call__(self, *arguments: str | Path, code: int = 0) -> str:
        """What a command prints; its exit code must be `code`."""
        done = subprocess.run(
            [sys.executable, "-m", "torchmar", *map(str, arguments)],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            timeout=120,
            check=False,
        )
        said = (done.stdout + done.stderr).decode("utf-8", "replace")
        assert done.returncode == code, said
        assert "Traceback" not in said
        return said

    def json(self, *arguments: str | Path, code: int = 0) -> Any:
        """What it prints for a machine."""
        return json.loads(self(*arguments, "--json", code=code))

    def end(self) -> None:
        """End the server, if one runs."""
        running = find_running(self.folder)
        if running is not None:
            stop(running, timeout=0)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system with little room; the test is skipped where none may be mounted."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
