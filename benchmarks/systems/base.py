"""Launches a server for measurement; finds where it answers, and what its log says if it does not."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

_MULTIPART = "multipart/form-data; boundary=benchmark"


class Failed(Exception):
    """Says that a system failed; the message ends with the last lines of its log."""

    def __init__(self, reason: str, log: Path | None = None) -> None:
        super().__init__(reason + ("" if log is None else tail(log)))


@dataclass(frozen=True)
class Endpoint:
    """Describes the endpoint of a launched server; `pid` is the root of its tree of processes.

    `multipart` is for servers that cannot take a plain body: the picture is then sent as form field `data`.
    """

    pid: int
    port: int
    path: str
    log: Path
    headers: Mapping[str, str] = field(default_factory=dict)
    multipart: bool = False

    @property
    def url(self) -> str:
        """Return the URL of predictions, for POST."""
        return f"http://127.0.0.1:{self.port}{self.path}"

    def body(self, content: bytes) -> tuple[bytes, str]:
        """Return the body for a picture, and its content type."""
        if not self.multipart:
            return content, "application/octet-stream"
        head = b'--benchmark\r\nContent-Disposition: form-data; name="data"; filename="data"\r\n'
        head += b"Content-Type: application/octet-stream\r\n\r\n"
        return head + content + b"\r\n--benchmark--\r\n", _MULTIPART


@dataclass(frozen=True)
class System:
    """Describes a line of the comparison; `launch(folder)` starts the system, and ends it on exit."""

    name: str
    runtime: str
    launch: Callable[[Path], AbstractContextManager[Endpoint]]


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def started(
    command: Sequence[str | Path], folder: Path, environment: Mapping[str, str]
) -> Iterator[tuple[int, Path]]:
    """Run a process with its log in its own session; end it with all processes that it started."""
    log = folder / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=folder,
            env=clean(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process.pid, log
    finally:
        _end(process)


def clean(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without settings that make Python compile its imports at every start."""
    return {key: value for key, value in environment.items() if key != "PYTHONDONTWRITEBYTECODE"}


def _end(process: subprocess.Popen[bytes]) -> None:
    """Terminate the whole session, which is ours, and kill it after ten seconds."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def first_answer(endpoint: Endpoint, content: bytes, deadline: float) -> bytes:
    """Send requests until a 200, and return its body.

    Raises Failed at `deadline` (perf_counter), or when the server has ended.
    """
    body, content_type = endpoint.body(content)
    headers = {"Content-Type": content_type, **endpoint.headers}
    last = "no connection"
    while time.perf_counter() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=30)
        try:
            connection.request("POST", endpoint.path, body, headers)
            response = connection.getresponse()
            answer = response.read()
            if response.status == 200:
                return answer
            last = f"{response.status}: {answer[:300].decode(errors='replace')}"
        except (OSError, http.client.HTTPException) as error:
            last = repr(error)
        finally:
            connection.close()
        if not Path("/proc", str(endpoint.pid)).exists() or _is_zombie(endpoint.pid):
            raise Failed("it ended while starting", endpoint.log)
        time.sleep(0.02)
    raise Failed(f"no 200 in time, the last was {last}", endpoint.log)


def _is_zombie(pid: int) -> bool:
    try:
        stat = Path("/proc", str(pid), "stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


def tail(log: Path, number: int = 15) -> str:
    """Return the last lines of a log, to follow a message."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return "".join(f"\n  | {line}" for line in lines[-number:])
