"""Load an archive in its own process, as TorchServe would, and replay its golden requests."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

from .. import mar
from ..answers import parsed, split_error
from ..answers import shown as body_shown
from ..compare import TOLERANCE, Comparator
from ..errors import ArchiveError, CannotTell, TorchmarError, WorkerLoadError
from ..golden import apart, counterpart, is_repeated, matches, whole
from ..names import shown
from ._asker import Asker
from ._exchange import Response
from ._loader import read_manifest
from ._missing import to_install, to_install_of_output
from ._unpack import unpacked
from ._weights import to_load
from ._worker import Worker

_WIDEST = 200  # characters of a response
_LONGEST_OUTPUT = 64 * 1024  # bytes: the last part of what a handler prints


@dataclass(frozen=True)
class GoldenResult:
    """The result of a golden request; `expected` and `found` are the compared parts."""

    name: str
    ok: bool
    expected: Any
    found: Any


@dataclass(frozen=True)
class Answered:
    """The result of a request without an expected answer.

    `ok` says whether a whole, successful response came; `answer` then has the form of answers.json.
    """

    name: str
    status: int
    answer: Any
    ok: bool


@dataclass(frozen=True)
class Check:
    """The result of loading an archive as TorchServe loads it.

    `load_seconds` runs from the start until it is loaded. `reason` and `details` explain a result that is not
    `ok`. `requests` holds the results of requests besides the golden ones. `caveats` are sentences on what
    `ok` leaves open, such as that nobody asked the archive anything, or what the server must have.
    `stopped_at` is the step at which the process died or was silent for too long, such as "request a.json".
    """

    path: str
    ok: bool
    reason: str = ""
    details: str = ""
    load_seconds: float = 0.0
    golden: tuple[GoldenResult, ...] = ()
    caveats: tuple[str, ...] = ()
    requests: tuple[Answered, ...] = ()
    stopped_at: str = ""

    @property
    def asked(self) -> int:
        """Return how many requests the check sent."""
        return len(self.golden) + len(self.requests)

    def changed(self, recorded: Mapping[str, Any], comparator: Comparator) -> dict[str, str]:
        """Report, by name, which golden requests got another answer than before.

        `recorded` holds whole answers, as a recording check stores them in `found`.
        """
        messages = {}
        for one in self.golden:
            before = recorded.get(one.name)
            if before is not None and not (one.ok and is_repeated(before, one.found, comparator)):
                answers = f"first {_words(before)}, then {_words(one.found)}"
                messages[one.name] = f"golden request {one.name}: {answers}"
        return messages

    def raise_for_failure(self) -> None:
        """Raise WorkerLoadError if it did not load or failed a golden request."""
        if not self.ok:
            raise WorkerLoadError(self.reason, self.details)


NEEDS_TORCH = "its worker loads torch: the server's Python must have it"
GOLDEN_UNKNOWN = "whether it answers its golden requests is not known"
NOTHING_ASKED = "it has no golden requests, so nothing was asked of it: whether it answers is not known"


def check_archive(
    path: Path, *, timeout: float = 300.0, python: str = sys.executable, requests: Sequence[Path] = ()
) -> Check:
    """Load a .mar, or a folder of that form, in a fresh process and replay its golden requests.

    A folder is neither copied nor changed. `timeout` is in seconds. `python` is the interpreter that would
    run the worker. `requests` are further files to send; any successful response to them will do. Processes
    that the handler starts end with the check. The verdict comes from the process that runs the archive's
    code: it finds mistakes, but proves nothing against malice; a signature does.

    Raises ArchiveError if it is no archive, or cannot be unpacked here; the Check reports everything else.
    """
    with unpacked(path, "torchmar-check-") as folder:
        return check_unpacked(folder, path, timeout=timeout, python=python, requests=requests)


def check_unpacked(
    folder: Path,
    name: Path,
    *,
    timeout: float = 300.0,
    python: str = sys.executable,
    record: bool = False,
    requests: Sequence[Path] = (),
) -> Check:
    """Check a folder in which Python may cache bytecode; the Check calls it `name`.

    With `record`, each file of MAR-INF/golden becomes a request without an expected answer, and the check
    records its answer in the form of answers.json.
    """
    folder = folder.resolve()
    if os.pathsep in str(folder):
        remedy = f"set TMPDIR, or give a store, without {os.pathsep!r} in its path"
        raise ArchiveError(f"{name}: {remedy}: no worker finds its handler in {folder}")
    if os.sep in python:  # the process starts in another folder
        python = os.path.abspath(python)  # noqa: PTH100 (keep a link to it: it selects a virtual environment)
    try:
        with tempfile.TemporaryFile() as report, tempfile.TemporaryFile() as output:
            asked = [os.path.abspath(file) for file in requests]  # noqa: PTH100 (the process starts elsewhere)
            return _check_apart(folder, name, timeout, python, report, output, asked, record=record)
    except OSError as error:
        raise ArchiveError(f"{name}: cannot be loaded here: {error}") from error


def _check_apart(
    folder: Path,
    name: Path,
    timeout: float,
    python: str,
    report: IO[bytes],
    output: IO[bytes],
    requests: Sequence[str],
    *,
    record: bool,
) -> Check:
    """Check in another process; its verdict comes through a nameless file and counts only with the nonce."""
    nonce = secrets.token_hex()
    here = str(Path(__file__).resolve().parents[2])
    words = (str(report.fileno()), nonce, here, str(folder), "record" * record, *requests)
    order = b"\0".join(map(os.fsencode, words))
    code = _run_apart(
        [python, str(Path(__file__).with_name("_start.py"))],
        {**os.environ, "PYTHONPATH": os.pathsep.join(_search(folder))},
        folder,
        order,
        report.fileno(),
        output,
        timeout,
    )
    message = _last_message(report, nonce)
    if code is not None and "check" in message:
        return _check_from(message["check"], folder, name)
    at = message.get("at", "loading")
    if code is None:
        what = "its handler did not load" if at == "loading" else f"its handler did not answer {at}"
        return Check(str(name), ok=False, reason=f"{name}: {what} within {timeout:g} s", stopped_at=at)
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    while_ = "" if at == "loading" else f" at {at}"
    printed = _last_printed(output)
    missing = None if "at" in message else to_install_of_output(printed, folder, python)
    remedy = "" if missing is None else f"{missing}; "
    reason = f"{name}: {remedy}its worker process died{while_} ({how})"
    return Check(str(name), ok=False, reason=reason, details=printed, stopped_at=at)


def _search(folder: Path) -> list[str]:
    """Return a worker's PYTHONPATH: the folder of the archive's handler, the server's own, the archive."""
    try:
        handler = str(read_manifest(folder).get("model", {}).get("handler", ""))
    except WorkerLoadError:  # the check will report it
        handler = ""
    file = handler.partition(":")[0]
    beside = [file.rpartition("/")[0]] if ":" in handler and "/" in file else []
    existing = os.environ.get("PYTHONPATH")
    return [*beside, *([existing] if existing else []), str(folder)]


def _run_apart(
    command: list[str],
    environment: dict[str, str],
    folder: Path,
    order: bytes,
    report: int,
    output: IO[bytes],
    timeout: float,
) -> int | None:
    """Return the exit code, or None after `timeout`. Ends the process and all that it started.

    Neither its output nor its report is a pipe: reading a pipe would wait for every process that holds it.
    """
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        pass_fds=[report],
        start_new_session=True,
    )
    try:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin as sink:
            sink.write(order)
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _last_message(report: IO[bytes], nonce: str) -> Mapping[str, Any]:
    """Return the report's last line with the nonce; {} if there is none."""
    report.seek(0)
    for line in reversed(report.read().splitlines()):
        with contextlib.suppress(ValueError, RecursionError):
            message = json.loads(line)
            if isinstance(message, dict) and message.get("nonce") == nonce:
                return message
    return {}


def _check_from(content: Mapping[str, Any], folder: Path, name: Path) -> Check:
    golden = tuple(GoldenResult(**result) for result in content["golden"])
    requests = tuple(Answered(**result) for result in content["requests"])
    reason = content["reason"].replace(str(folder), str(name))
    values = {**content, "path": str(name), "golden": golden, "requests": requests, "reason": reason}
    return Check(**{**values, "caveats": tuple(content["caveats"])})


def _last_printed(output: IO[bytes]) -> str:
    """Return the last lines of its output, whatever bytes those are."""
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - _LONGEST_OUTPUT))
    return "\n".join(output.read().decode("utf-8", "replace").splitlines()[-20:])


# -- in that process ----------------------------------------------------------------------------


def check_into(
    folder: str,
    report: int,
    nonce: str,
    *,
    began: float,
    start_error: BaseException | None,
    is_server: bool,
    record: bool,
    requests: Sequence[str],
) -> None:
    """Run in the other process: check, write the report, end. `began` is a time of time.monotonic()."""

    def send(**message: Any) -> None:
        os.write(report, (json.dumps({"nonce": nonce, **message}) + "\n").encode())

    code = 1
    try:
        if start_error is not None:
            check = _did_not_start(Path(folder), start_error)
        else:
            asked = [Path(file) for file in requests]
            check = check_here(Path(folder), began, lambda at: send(at=at), record=record, requests=asked)
        if check.ok:
            check = replace(check, caveats=(*check.caveats, *_of_the_server(is_server=is_server)))
        try:
            send(check=_plain(check))
        except (ValueError, RecursionError):  # JSON may be readable and still too deep to write
            answered = (replace(each, answer=_words(each.answer)) for each in check.requests)
            golden = tuple(map(_in_words, check.golden))
            send(check=_plain(replace(check, golden=golden, requests=tuple(answered))))
        code = 0
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # end even if the handler left threads running


def _plain(check: Check) -> dict[str, Any]:
    """Return the check as JSON. dataclasses.asdict would copy the answers, and fails at deep ones."""
    content = {field.name: getattr(check, field.name) for field in fields(check)}
    lists = {name: [vars(result) for result in content[name]] for name in ("golden", "requests")}
    return {**content, **lists}


def _in_words(result: GoldenResult) -> GoldenResult:
    return replace(result, expected=_words(result.expected), found=_words(result.found))


def _words(value: Any) -> str:
    try:
        return shown(str(value), _WIDEST)
    except RecursionError:
        return "(nested too deeply to be shown)"


def _did_not_start(folder: Path, error: BaseException) -> Check:
    """Return the check for an error that would kill TorchServe's worker before it loads the handler."""
    brought = {entry.name.removesuffix(".py") for entry in folder.iterdir()}
    shadowing = sorted(brought & {*_NEEDED_BY_A_WORKER, *sys.stdlib_module_names})
    if shadowing:
        remedy = f"rename {', '.join(shadowing)} in the archive: in a worker it takes the place of "
        remedy += "what TorchServe imports by that name"
    elif (missing := to_install(error, folder)) is not None:
        reason = f"{folder}: {missing}; TorchServe's worker does not start without"
        return Check(str(folder), ok=False, reason=reason)
    else:
        remedy = f"see what its {'sitecustomize.py' if 'sitecustomize' in brought else 'files'} do"
    what = shown(f"{type(error).__name__}: {error}", 300)
    reason = f"{folder}: {remedy}; TorchServe's worker does not start with it: {what}"
    return Check(str(folder), ok=False, reason=reason, details="".join(traceback.format_exception(error)))


_NEEDED_BY_A_WORKER = ("ts", "torch", "numpy", "yaml", "psutil")


def _of_the_server(*, is_server: bool) -> Iterator[str]:
    if "torch._C" in sys.modules:
        yield NEEDS_TORCH
    if not is_server:
        yield "torchserve is not installed here: what its worker imports besides was not tried"


def check_here(
    folder: Path,
    began: float,
    at: Callable[[str], None],
    *,
    record: bool = False,
    requests: Sequence[Path] = (),
) -> Check:
    """Check an unpacked archive in this process. Calls `at` with the name of each step."""
    name = str(folder)
    try:
        worker = Worker.load(folder, configured=config_of_a_check, alone=True)
    except WorkerLoadError as error:
        if (missing := to_install(error, folder)) is not None:
            reason = f"{name}: {missing}; {str(error).removeprefix(f'{name}: ')}"
            return Check(name, ok=False, reason=reason)
        if (remedy := to_load(error.__cause__)) is not None:
            return Check(name, ok=False, reason=f"{name}: its weights cannot be loaded: {remedy}")
        return Check(name, ok=False, reason=str(error), details=error.details)
    seconds = round(time.monotonic() - began, 3)
    try:
        with worker, Asker(worker) as asker:
            golden = tuple((_record_golden if record else _replay_golden)(asker, at))
            unexpected = [] if record else _unexpected(folder / mar.GOLDEN, {one.name for one in golden})
            answered = tuple(_ask(asker, [*unexpected, *requests], at))
    except CannotTell as error:
        caveat = f"{GOLDEN_UNKNOWN}: {error}"
        return Check(name, ok=True, load_seconds=seconds, caveats=(caveat,))
    except TorchmarError as error:
        return Check(name, ok=False, reason=f"{folder}: {error}", load_seconds=seconds)
    wrong = [f"{folder}: golden request {one.name}: {_mistake(one)}" for one in golden if not one.ok]
    wrong += [f"{folder}: request {each.name}: {_words(each.answer)}" for each in answered if not each.ok]
    reason = "\n".join(wrong)
    caveats = [] if golden or answered or record else [NOTHING_ASKED]
    if read_manifest(folder).get("runtime") == "python3":
        caveats.append("its manifest asks for python3: that is the first on the server's PATH")
    found = Check(name, not reason, reason, load_seconds=seconds, golden=golden, requests=answered)
    return replace(found, caveats=tuple(caveats))


def _mistake(result: GoldenResult) -> str:
    """Return the expected and the found answer; of long answers, the difference."""
    place, expected, found = "", _words(result.expected), _words(result.found)
    if max(len(expected), len(found)) >= _WIDEST and not isinstance(result.found, str):
        place, expected, found = apart(result.expected, result.found, TOLERANCE, _WIDEST)
    return f"{place}expected {expected}, found {found}"


def config_of_a_check(config: Any) -> Any:
    """Change the config for a check: no traffic to record, no other workers to share weights with."""
    handler = config.get("handler") if isinstance(config, dict) else None
    if not isinstance(handler, dict):
        return config
    kept = {key: value for key, value in handler.items() if key != "record"}
    return {**config, "handler": {**kept, "workers": 1} if "workers" in kept else kept}


def _record_golden(asker: Asker, at: Callable[[str], None]) -> Iterator[GoldenResult]:
    """Yield the answer to each golden request, in the form of answers.json."""
    folder = asker.model_dir / mar.GOLDEN
    if not folder.is_dir():
        return
    for name in _golden_names(folder):
        at(f"golden request {shown(name)}")
        response = asker.ask(name, (folder / name).read_bytes())
        why_not = _why_no_answer(response, asker.cause)
        found = why_not or whole(parsed(response.body))
        yield GoldenResult(name, not why_not, "an answer", found)


def _golden_names(folder: Path) -> list[str]:
    """Return the names of the requests in a folder MAR-INF/golden."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if name != Path(mar.GOLDEN_ANSWERS).name)


def _why_no_answer(response: Response, cause: str) -> str:
    """Explain why no whole, successful response came; '' if one did."""
    body, broken = response.body, response.broken
    if response.parts and not broken:
        last, reason = split_error(response.parts[-1], response.request_id)
        body, broken = b"".join([*response.parts[:-1], last]), reason or ""
    if broken:
        answered = f"answered with a part of an answer, {body_shown(body, 40)!r}, which broke off"
        answered += "" if cause else f": {shown(broken, 120)}"
    elif response.status != 200:
        answered = f"answered with {response.status}: {body_shown(response.body)}"
    else:
        return ""
    return f"{cause}; {answered}" if cause else answered


def _unexpected(folder: Path, expected: Collection[str]) -> list[Path]:
    """Return the golden requests without an expected answer."""
    return [folder / name for name in _golden_names(folder) if name not in expected]


def _ask(asker: Asker, requests: Sequence[Path], at: Callable[[str], None]) -> Iterator[Answered]:
    """Yield the result of each file."""
    for path in requests:
        at(f"request {shown(path.name)}")
        try:
            body = path.read_bytes()
        except OSError as error:
            raise WorkerLoadError(f"request {path}: {error.strerror or error}") from None
        response = asker.ask(path.name, body)
        why_not = _why_no_answer(response, asker.cause)
        yield Answered(path.name, response.status, why_not or whole(parsed(response.body)), not why_not)


def _replay_golden(asker: Asker, at: Callable[[str], None]) -> Iterator[GoldenResult]:
    """Replay each golden request alone, and compare its answer with the archive's expected one."""
    answers = asker.model_dir / mar.GOLDEN_ANSWERS
    if not os.path.lexists(answers):
        return
    comparator = _comparator(asker.model_dir / mar.COMPARE)
    for name, expected in _read_answers(answers).items():
        body = _golden_request(asker.model_dir / mar.GOLDEN, name)
        at(f"golden request {shown(name)}")
        response = asker.ask(name, body)
        why_not = _why_no_answer(response, asker.cause)
        found = why_not or counterpart(expected, response.body)
        same = not why_not and matches(expected, response.body, comparator)
        yield GoldenResult(name, same, expected, found)


def _comparator(file: Path) -> Comparator:
    try:
        return Comparator.of(json.loads(file.read_bytes()) if os.path.lexists(file) else None)
    except (OSError, ValueError, RecursionError) as error:
        raise WorkerLoadError(f"its {mar.COMPARE} does not say how answers are compared: {error}") from None


def _read_answers(file: Path) -> dict[str, Any]:
    try:
        answers = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise WorkerLoadError(f"its {mar.GOLDEN_ANSWERS} is not JSON: {error}") from None
    if not isinstance(answers, dict):
        raise WorkerLoadError(f"its {mar.GOLDEN_ANSWERS} holds no JSON object")
    return answers


def _golden_request(folder: Path, name: str) -> bytes:
    """Return a golden request's body.

    Raises WorkerLoadError if the name leads out of the folder, or to no file.
    """
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise WorkerLoadError(
            f"{mar.GOLDEN_ANSWERS} names {shown(name)!r}, which leads out of {mar.GOLDEN}: do not serve it"
        )
    try:
        return (folder / path).read_bytes()
    except OSError as error:
        raise WorkerLoadError(
            f"add the golden request {shown(name)} to {mar.GOLDEN}, or remove it from answers.json: "
            f"{error.strerror or error}"
        ) from None
