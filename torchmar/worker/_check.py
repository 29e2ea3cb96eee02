"""Loading an archive in a process of its own, as TorchServe would, and replaying its golden requests."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import mar
from ..answers import counterpart, expected_matches, shown
from ..errors import TorchmarError, WorkerLoadError
from ._exchange import Request
from ._worker import Worker


@dataclass(frozen=True)
class GoldenResult:
    """What a golden request was answered with; `expected` and `found` are the parts that are compared."""

    name: str
    ok: bool
    expected: Any
    found: Any


@dataclass(frozen=True)
class Check:
    """What became of an archive that was loaded as TorchServe loads it.

    `load_seconds` from start to loaded; `reason` and `details` where it is not `ok`.
    """

    path: str
    ok: bool
    reason: str = ""
    details: str = ""
    load_seconds: float = 0.0
    golden: tuple[GoldenResult, ...] = ()

    def raise_for_failure(self) -> None:
        """Raise WorkerLoadError unless it loaded and answered its golden requests."""
        if not self.ok:
            raise WorkerLoadError(self.reason, self.details)


# Run by `python -c`. The archive is on PYTHONPATH, as TorchServe puts it there: that runs its sitecustomize.
# torchmar's own folder is on the path only for as long as it takes to import this: an archive that lacks
# something must not find it in the checkout.
_CHILD = """
import sys
here, folder, report = sys.argv[1:]
sys.path.append(here)
from torchmar.worker._check import check_into
del sys.path[len(sys.path) - 1 - sys.path[::-1].index(here)]
check_into(folder, report)
"""


def check_archive(path: Path, *, timeout: float = 300.0, python: str = sys.executable) -> Check:
    """Load a .mar, or a folder of that form, in a fresh process and replay its golden requests.

    A folder is neither copied nor written to. `timeout` in seconds. `python` is the interpreter that would
    run the worker. Raises ArchiveError where it is no archive; everything else is told in the Check. What the
    handler has started ends with the process.
    """
    with tempfile.TemporaryDirectory(prefix="torchmar-check-") as temporary:
        folder = Path(temporary, "model")
        mar.extract(path, folder)
        return check_unpacked(folder, path, timeout=timeout, python=python)


def check_unpacked(
    folder: Path, name: Path, *, timeout: float = 300.0, python: str = sys.executable
) -> Check:
    """`check_archive` of a folder in which Python may cache bytecode; the Check calls it `name`."""
    folder = folder.resolve()
    with tempfile.TemporaryDirectory(prefix="torchmar-check-") as temporary:
        report = Path(temporary, "report.json")
        existing = os.environ.get("PYTHONPATH")
        search = [*([existing] if existing else []), str(folder)]
        here = str(Path(__file__).resolve().parent.parent.parent)
        try:
            code, printed = _run_apart(
                [python, "-c", _CHILD, here, str(folder), str(report)],
                {**os.environ, "PYTHONPATH": os.pathsep.join(search)},
                Path(temporary),
                timeout,
            )
        except subprocess.TimeoutExpired:
            return Check(str(name), ok=False, reason=f"{name}: its handler did not load within {timeout:g} s")
        if not report.exists():
            last = "\n".join(printed.splitlines()[-20:])
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            return Check(str(name), ok=False, reason=f"{name}: its worker process died ({how})", details=last)
        content = json.loads(report.read_text(encoding="utf-8"))
    content["golden"] = tuple(GoldenResult(**result) for result in content["golden"])
    content["reason"] = content["reason"].replace(str(folder), str(name))
    return Check(**{**content, "path": str(name)})


def _run_apart(
    command: list[str], environment: dict[str, str], folder: Path, timeout: float
) -> tuple[int, str]:
    """Exit code and what was printed; the process is ended with everything that it has started.

    Its output goes to a file: a pipe would be waited for as long as any process holds it.
    """
    output = folder / "output.txt"
    with output.open("wb") as sink:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return code, output.read_text(encoding="utf-8", errors="replace")


def check_into(folder: str, report: str) -> None:
    """What the process runs: check, write the report, end."""
    result = json.dumps(asdict(check_here(Path(folder))))
    Path(report).write_text(result, encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)  # a thread that the handler started must not keep this process


def check_here(folder: Path) -> Check:
    """`check_archive` in this process, of an unpacked archive."""
    start = time.monotonic()
    try:
        worker = Worker.load(folder, configured=_of_a_check)
    except WorkerLoadError as error:
        return Check(str(folder), ok=False, reason=str(error), details=error.details)
    except TorchmarError as error:
        return Check(str(folder), ok=False, reason=str(error))
    seconds = time.monotonic() - start
    with worker:
        golden = tuple(_replay_golden(worker))
    wrong = [result for result in golden if not result.ok]
    reason = "".join(
        f"{folder}: golden request {result.name}: expected {result.expected}, found {result.found}\n"
        for result in wrong
    ).strip()
    return Check(str(folder), not wrong, reason, load_seconds=round(seconds, 3), golden=golden)


def _of_a_check(config: Any) -> Any:
    """A check is no traffic, so none of it is recorded; nor has it other workers to share weights with."""
    handler = config.get("handler") if isinstance(config, dict) else None
    if not isinstance(handler, dict):
        return config
    kept = {key: value for key, value in handler.items() if key != "record"}
    return {**config, "handler": {**kept, "workers": 1} if "workers" in kept else kept}


def _replay_golden(worker: Worker) -> Iterator[GoldenResult]:
    """Each golden request alone; its answer must be the one that the archive expects of it."""
    answers = worker.model_dir / mar.GOLDEN_ANSWERS
    if not answers.is_file():
        return
    for name, expected in json.loads(answers.read_text(encoding="utf-8")).items():
        body = (worker.model_dir / mar.GOLDEN / name).read_bytes()
        [response] = worker.predict([Request.body(body)])
        if response.status == 200:
            found = counterpart(expected, response.body)
            ok = expected_matches(expected, response.body)
        else:
            found, ok = f"{response.status}: {shown(response.body)}", False
        yield GoldenResult(name, ok, expected, found)
