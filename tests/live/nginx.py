"""A real nginx with a canary's configuration, in a folder and on a port of its own."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from torchmar.routers.access_log import AccessLog
from torchmar.routers.nginx import Canary, configuration, standalone
from torchmar.server import unused_ports

PROGRAM = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

needs_nginx = pytest.mark.skipif(PROGRAM is None, reason="no nginx on the PATH: apt install nginx-light")


class Nginx:
    """Runs until `stop`. `canary` is what is in force; its access log and port are chosen here."""

    def __init__(self, folder: Path, canary: Canary) -> None:
        self.folder = folder
        self.file, self._main = folder / "canary.conf", folder / "nginx.conf"
        [port] = unused_ports(1)
        listen = f"127.0.0.1:{port}"
        self.canary = replace(canary, listen=listen, access_log=folder / "torchmar.log")
        self.log = AccessLog(self.canary.access_log, canary.model)
        self._main.write_text(standalone(self.file))
        self.file.write_text(configuration(self.canary))
        self.check()
        self._process = subprocess.Popen(self._command("-g", self._options("daemon off;")))
        wait_until(self._answers)

    @property
    def address(self) -> str:
        return f"http://{self.canary.listen}"

    @property
    def reload_command(self) -> str:
        """For a shell's eyes."""
        return shlex.join(self._command("-s", "reload"))

    def step(self, percent: float) -> None:
        """Another share, as a release does it; returns when no worker of before is left."""
        self.canary = replace(self.canary, percent=percent)
        self.file.write_text(configuration(self.canary))
        self.check()
        before = set(self._workers())
        subprocess.run(self._command("-s", "reload"), check=True, timeout=10)
        wait_until(lambda: bool(self._workers()) and not before & set(self._workers()))

    def check(self) -> None:
        """nginx itself accepts what was written."""
        command = self._command("-t", "-g", self._options(""))
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        assert done.returncode == 0, done.stderr
        assert "[warn]" not in done.stderr

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=10)

    def _command(self, *arguments: str) -> list[str]:
        assert PROGRAM is not None
        errors = str(self.folder / "error.log")
        return [PROGRAM, "-e", errors, "-p", str(self.folder), "-c", str(self._main), *arguments]

    @staticmethod
    def _options(more: str) -> str:
        # Workers of a root's nginx change to another user, who may not enter the folders of a test.
        return f"{'user root;' if os.geteuid() == 0 else ''} {more}"

    def _workers(self) -> list[int]:
        return [child.pid for child in psutil.Process(self._process.pid).children()]

    def _answers(self) -> bool:
        host, _, port = self.canary.listen.rpartition(":")
        with socket.socket() as probe:
            return probe.connect_ex((host, int(port))) == 0


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nginx did not do what it was told"
        time.sleep(0.01)
