"""A server under measurement: how it is launched, where it answers, what its log says when it does not."""

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
    """A system did not do what it should; the message ends with the last lines of its log."""

    def __init__(self, reason: str, log: Path | None = None) -> None:
        super().__init__(reason + ("" if log is None else tail(log)))


@dataclass(frozen=True)
class Endpoint:
    """Where a launched server answers. `pid` is the root of its tree of processes.

    `multipart` where it cannot take a plain body: the picture is then sent as form field `data`.
    """

    pid: int
    port: int
    path: str
    log: Path
    headers: Mapping[str, str] = field(default_factory=dict)
    multipart: bool = False

    @property
    def url(self) -> str:
        """For POST."""
        return f"http://127.0.0.1:{self.port}{self.path}"

    def body(self, content: bytes) -> tuple[bytes, str]:
        """What is sent for a picture, and its content type."""
        if not self.multipart:
            return content, "application/octet-stream"
        head = b'--benchmark\r\nContent-Disposition: form-data; name="data"; filename="data"\r\n'
        head += b"Content-Type: application/octet-stream\r\n\r\n"
        return head + content + b"\r\n--benchmark--\r\n", _MULTIPART


@dataclass(frozen=True)
class System:
    """One line of the comparison. `launch(folder)` starts it in an empty folder, and ends it when left."""

    name: str
    runtime: str
    launch: Callable[[Path], AbstractContextManager[Endpoint]]


def free_port() -> int:
    """A port of 127.0.0.1 that nothing uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def started(
    command: Sequence[str | Path], folder: Path, environment: Mapping[str, str]
) -> Iterator[tuple[int, Path]]:
    """A process with its log, in a session of its own; it ends with all that it has started."""
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
    """Without what would slow every start down: Python would compile its imports anew each time."""
    return {key: value for key, value in environment.items() if key != "PYTHONDONTWRITEBYTECODE"}


def _end(process: subprocess.Popen[bytes]) -> None:
    """Politely, and after ten seconds not politely; the whole session, which is ours."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def first_answer(endpoint: Endpoint, content: bytes, deadline: float) -> bytes:
    """Ask until there is a 200; its body. Raises Failed at `deadline` (perf_counter) or when it has ended."""
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
    """The last lines of a log, to follow a message."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return "".join(f"\n  | {line}" for line in lines[-number:])
