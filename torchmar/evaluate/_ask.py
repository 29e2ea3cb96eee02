"""Get the answers to examples: from an archive in a worker process, or from a server."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..answers import parsed
from ..client import Inference
from ..dataset import Example
from ..errors import WorkerLoadError
from ..files import JSON, TEXT
from ..golden import answer_of
from ..mar import Archive
from ..measure.ask import send
from ..worker import check_unpacked, unpacked

_SUFFIX = {JSON: ".json", TEXT: ".txt"}
_AT_ONCE = 8  # requests to a server
_MOST_AT_ONCE, _SECONDS = 5000, 30.0  # for one process
_LOADING, _SLACK = 300.0, 30.0  # seconds: for the first process to load, and for another one besides


@dataclass(frozen=True)
class Answer:
    """The answer to one example: parsed JSON, text or bytes. `problem` says why there is none, else ''."""

    content: Any = None
    problem: str = ""


def from_worker(
    archive: Archive,
    examples: Sequence[Example],
    *,
    timeout: float = 30.0,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Answer]:
    """Return the archive's answers, from processes that start as a TorchServe worker does.

    `timeout` is in seconds for each request. One that kills its process, or is not answered in time, has no
    answer; another process goes on after it. Raises WorkerLoadError, ArchiveError, DatasetError.
    """
    answers: list[Answer] = []
    count, patience = 1, _LOADING
    with (
        tempfile.TemporaryDirectory(prefix="torchmar-evaluate-") as folder,
        unpacked(archive.path, "torchmar-evaluate-") as inside,
    ):
        while len(answers) < len(examples):
            some = examples[len(answers) : len(answers) + count]
            begun = time.monotonic()
            found, load_seconds = _from_process(archive, inside, Path(folder), some, patience + timeout)
            answers += found
            progress(f"{len(answers)} of {len(examples)} answers")
            if load_seconds:  # else it was stopped, which says nothing of the others
                each = max(1e-4, (time.monotonic() - begun - load_seconds) / len(found))
                count = max(1, min(_MOST_AT_ONCE, 10 * count, int(_SECONDS / each)))
                patience = _SLACK + 10 * load_seconds + 4 * each * count
    return answers


def _from_process(
    archive: Archive, inside: Path, folder: Path, examples: Sequence[Example], timeout: float
) -> tuple[list[Answer], float]:
    """Return the answers of one process to the first of the examples, and its seconds to load.

    Where it dies or is silent, these are the answers up to that request, and 0 seconds. `inside` is the
    archive, unpacked. Raises WorkerLoadError where it does not load.
    """
    files = [_file(folder, number, example) for number, example in enumerate(examples)]
    try:
        check = check_unpacked(inside, archive.path, timeout=timeout, requests=files)
    finally:
        for file in files:
            file.unlink()
    if len(check.requests) >= len(examples):  # before them come golden requests without an expected answer
        answered = check.requests[-len(examples) :]
        found = [
            Answer(answer_of(one.answer)) if one.ok else Answer(problem=str(one.answer)) for one in answered
        ]
        return found, check.load_seconds
    stopped = next((n for n, file in enumerate(files) if check.stopped_at == f"request {file.name}"), None)
    if stopped is None:
        raise WorkerLoadError(check.reason or "; ".join(check.caveats), check.details)
    before: list[Answer] = []
    if stopped:  # what was answered before is lost with the process
        before, _ = _from_process(archive, inside, folder, examples[:stopped], timeout)
    if len(before) < stopped:
        return before, 0.0
    why = check.reason.removeprefix(f"{archive.path}: ").replace(f" at request {files[stopped].name}", "")
    return [*before, Answer(problem=why.replace(f" request {files[stopped].name}", ""))], 0.0


def _file(folder: Path, number: int, example: Example) -> Path:
    """Return a file with the request, whose suffix gives its content type."""
    file = folder / f"{number}{_SUFFIX.get(example.content_type, '.bin')}"
    if isinstance(example.body, Path):
        file.symlink_to(example.body.resolve())
    else:
        file.write_bytes(example.read())
    return file


def from_server(
    inference: Inference,
    model: str,
    version: str | None,
    examples: Sequence[Example],
    *,
    timeout: float = 30.0,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Answer]:
    """Return a served version's answers; None is the default version. `timeout` is in seconds for each.

    Raises ConnectionFailed, DatasetError.
    """
    done = 0

    def ask(example: Example) -> Answer:
        nonlocal done
        request = _Request(example.name, example.read(), example.content_type)
        sample = send(inference, model, version, request, timeout)
        done += 1
        progress(f"{done} of {len(examples)} answers")
        return (
            Answer(parsed(sample.body)) if sample.ok else Answer(problem=sample.error or str(sample.status))
        )

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(ask, examples))


@dataclass(frozen=True)
class _Request:
    """A request to send."""

    name: str
    body: bytes
    content_type: str
