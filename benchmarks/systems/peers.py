"""Launches the other servers, each in its own environment; all do the same work (benchmarks.work).

Each is configured in its app and here, with the page of its documentation.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..work import ARCHIVE
from .base import ROOT, Endpoint, System, free_port, started

Command = list[str | Path]


def litserve(python: Path, archive: Path | None, workers: int) -> System:
    """Return LitServe (see its app), which takes only JSON or a form."""

    def command(_port: int) -> Command:
        return [python, "-m", "benchmarks.apps.litserve_app"]

    return _peer("litserve", command, archive, workers, multipart=True)


def mosec(python: Path, archive: Path | None, workers: int) -> System:
    """Return mosec (see its app) with a longer timeout: on a slow machine many clients would meet its 3 s.

    https://mosecorg.github.io/mosec/reference/arguments.html
    """

    def command(port: int) -> Command:
        options = [
            "--address",
            "127.0.0.1",
            "--port",
            str(port),
            "--timeout",
            "30000",
            "--log-level",
            "warning",
        ]
        return [python, "-m", "benchmarks.apps.mosec_app", *options]

    return _peer("mosec", command, archive, workers, path="/inference")


def fastapi(python: Path, archive: Path | None, workers: int) -> System:
    """Return FastAPI (see its app); `uvicorn[standard]` brings uvloop and httptools, which uvicorn uses.

    https://www.uvicorn.org/deployment/
    """

    def command(port: int) -> Command:
        options = ["--host", "127.0.0.1", "--port", str(port), "--workers", str(workers), "--no-access-log"]
        return [python, "-m", "uvicorn", "benchmarks.apps.fastapi_app:app", *options]

    return _peer("fastapi", command, archive, workers)


def bentoml(python: Path, archive: Path | None, workers: int) -> System:
    """Return BentoML (see its app)."""

    def command(port: int) -> Command:
        options = ["--host", "127.0.0.1", "--port", str(port)]
        return [python.parent / "bentoml", "serve", "benchmarks.apps.bentoml_app:Classifier", *options]

    return _peer("bentoml", command, archive, workers)


def _peer(
    name: str,
    command: Callable[[int], Command],
    archive: Path | None,
    workers: int,
    *,
    path: str = "/predict",
    multipart: bool = False,
) -> System:
    """Return a system that serves an unpacked archive, or the no-op without one."""

    @contextmanager
    def launch(folder: Path) -> Iterator[Endpoint]:
        port = free_port()
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(folder),
            "BENTOML_HOME": str(folder),
            "BENTOML_DO_NOT_TRACK": "True",
            ARCHIVE: "" if archive is None else str(archive),
            "BENCH_WORKERS": str(workers),
            "BENCH_PORT": str(port),
            "OMP_NUM_THREADS": "1",
        }
        with started(command(port), folder, environment) as (pid, log):
            yield Endpoint(pid, port, path, log, multipart=multipart)

    return System(name, "ONNX" if archive is not None else "none", launch)
