"""An archive's handler in this process, under the stock loader's and service's own rules.

What TorchServe 0.12 does between its socket and a handler is `ts/model_loader.py` and `ts/service.py`; this
is the same, without TorchServe: which entry point is chosen, how a request becomes what the handler is
given, what becomes of its answer. A live test runs the same archives here and there and compares.

    with Worker.load(Path("model_store/efficientnet_lite0-2.0.mar")) as worker:
        [response] = worker.predict([Request.body(picture)])
        response.json()

`check_archive` does it in a process of its own, as TorchServe would start it: what crashes or hangs there
takes nothing along.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import json
import logging
import os
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import yaml

from . import mar
from .errors import TorchmarError, WorkerLoadError

logger = logging.getLogger(__name__)

TS_VERSION = "0.12.0"


# -- what goes in and out -----------------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    """One input of a request: a multipart field, or the whole body under the name `body`."""

    name: str
    value: bytes
    content_type: str = ""


@dataclass(frozen=True)
class Request:
    """One HTTP request to /predictions, as the frontend passes it on."""

    parameters: tuple[Parameter, ...]
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def body(
        cls, content: bytes, content_type: str = "", headers: Mapping[str, str] | None = None
    ) -> Request:
        """A plain body, as `curl -T FILE` sends it."""
        return cls((Parameter("body", content, content_type),), headers or {})

    @classmethod
    def form(cls, headers: Mapping[str, str] | None = None, **fields: bytes) -> Request:
        """A multipart form, as `curl -F name=@FILE` sends it."""
        parts = tuple(Parameter(name, value, "application/octet-stream") for name, value in fields.items())
        return cls(parts, headers or {})

    @classmethod
    def json(cls, content: Any) -> Request:
        """A JSON body with its content type."""
        return cls.body(json.dumps(content).encode(), "application/json")


@dataclass(frozen=True)
class Response:
    """What the caller gets over HTTP."""

    status: int
    body: bytes
    content_type: str = ""
    phrase: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


class _RequestState:
    """A request's headers and what the handler says of its response (ts.context.RequestProcessor)."""

    def __init__(self, headers: Mapping[str, Any]) -> None:
        self.request_headers = dict(headers)
        self.response_headers: dict[str, str] = {}
        self.status: int | None = 200
        self.phrase: str | None = None

    def get_request_property(self, key: str) -> Any:
        return self.request_headers.get(key)

    def get_request_properties(self) -> dict[str, Any]:
        return self.request_headers

    def report_status(self, code: int, reason_phrase: str | None = None) -> None:
        self.status, self.phrase = code, reason_phrase

    def get_response_status_code(self) -> int | None:
        return self.status

    def get_response_status_phrase(self) -> str | None:
        return self.phrase

    def add_response_property(self, key: str, value: str) -> None:
        self.response_headers[key] = value

    def get_response_headers(self) -> dict[str, str]:
        return self.response_headers

    def get_response_header(self, key: str) -> str | None:
        return self.response_headers.get(key)


class RecordedMetrics:
    """Stands for ts.metrics: takes every `add_…` call and keeps it in `calls`."""

    def __init__(self, model_name: str) -> None:
        self.model_name = model_name
        self.request_ids: dict[int, str] | None = None
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if not name.startswith(("add_", "get_", "set_")):
            raise AttributeError(name)

        def record(*args: Any, **kwargs: Any) -> RecordedMetrics:
            self.calls.append((name, args, kwargs))
            return self  # get_metric(…).add_or_update(…) and the like go on here

        return record


class WorkerContext:
    """What a handler is given besides the data (ts.context.Context)."""

    def __init__(
        self,
        model_name: str,
        model_dir: Path,
        manifest: Mapping[str, Any] | None,
        batch_size: int,
        gpu_id: int | None,
        config: Any,
    ) -> None:
        self.model_name = model_name
        self.manifest = manifest
        self.model_yaml_config = config
        self.system_properties: dict[str, Any] = {
            "model_dir": str(model_dir),
            "gpu_id": gpu_id,
            "batch_size": batch_size,
            "server_name": "MMS",
            "server_version": TS_VERSION,
            "limit_max_image_pixels": True,
        }
        self.metrics = RecordedMetrics(model_name)
        self.request_ids: dict[int, str] | None = None
        self.request_processor: list[_RequestState] | None = None
        self.stopping_criteria: Any = None
        self.cl_socket = None

    def _state(self, idx: int) -> _RequestState:
        assert self.request_processor is not None
        return self.request_processor[idx]

    def get_request_id(self, idx: int = 0) -> str | None:
        return None if self.request_ids is None else self.request_ids.get(idx)

    def get_request_header(self, idx: int, key: str) -> Any:
        return self._state(idx).get_request_property(key)

    def get_all_request_header(self, idx: int) -> dict[str, Any]:
        return self._state(idx).get_request_properties()

    def get_sequence_id(self, idx: int) -> Any:
        return self._state(idx).get_request_property("ts_request_sequence_id")

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        if self.request_processor is not None:
            self._state(idx).report_status(code, phrase)

    def set_all_response_status(self, code: int = 200, phrase: str = "") -> None:
        for state in self.request_processor or []:
            state.report_status(code, phrase)

    def get_response_status(self, idx: int) -> tuple[int | None, str | None]:
        return self._state(idx).status, self._state(idx).phrase

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        self._state(idx).add_response_property(key, value)

    def get_response_headers(self, idx: int) -> dict[str, str]:
        return self._state(idx).response_headers

    def set_response_content_type(self, idx: int, value: str) -> None:
        self.set_response_header(idx, "content-type", value)

    def get_response_content_type(self, idx: int) -> str | None:
        return self._state(idx).response_headers.get("content-type")


# -- the worker ---------------------------------------------------------------------------------


class Worker:
    """A loaded handler. Close it, or use it as a context manager: it unpacks into a temporary folder.

    While it loads and predicts, the archive's folder is the working directory and first on sys.path, as in a
    TorchServe worker; both belong to the whole process, so use workers from one thread at a time. Modules
    that the archive brings are its own: several workers, and this process, may each have their `handler`.
    """

    def __init__(self, model_dir: Path) -> None:
        self.model_dir = model_dir
        self._cleanup = contextlib.ExitStack()
        self._modules: dict[str, ModuleType] = {}
        self._search = [str(model_dir)]
        self._entry_point: Callable[[Any, Any], Any] | None = None
        self.context: WorkerContext | None = None

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        handler: str | None = None,
        batch_size: int = 1,
        gpu_id: int | None = None,
        envelope: str | None = None,
    ) -> Worker:
        """Load a .mar, or a folder that holds what a .mar would, and initialise its handler.

        `handler`, `batch_size` and `envelope` are what the register call and config.properties can set.
        Raises WorkerLoadError with the reason a TorchServe worker would have died of; ArchiveError where it
        is no archive.
        """
        with contextlib.ExitStack() as stack:
            model_dir = path.resolve()
            if not path.is_dir():
                temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="torchmar-worker-"))
                model_dir = Path(temporary).resolve()
                mar.extract(path, model_dir)
            worker = cls(model_dir)
            worker._load(path, handler, batch_size, gpu_id, envelope)
            worker._cleanup = stack.pop_all()
        return worker

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Forget the handler and remove the temporary folder."""
        self._entry_point = None
        self._modules.clear()
        self._cleanup.close()

    # -- loading --------------------------------------------------------------------------------

    def _load(
        self, path: Path, handler: str | None, batch_size: int, gpu_id: int | None, envelope: str | None
    ) -> None:
        manifest = _read_manifest(self.model_dir)
        model = manifest.get("model")
        if not isinstance(model, dict):
            model = {}
        handler = handler or model.get("handler")
        if not handler:
            raise WorkerLoadError(f"{path}: its manifest names no handler; TorchServe's default is its own")
        config: Any = {}
        if "configFile" in model:
            config = _read_config(path, self.model_dir / model["configFile"])
        name = str(model.get("modelName", path.stem))
        self.context = WorkerContext(name, self.model_dir, manifest, batch_size, gpu_id, config)
        with self._at_home():
            try:
                entry_point, initialize = _entry_point(handler)
                if envelope is not None:
                    entry_point = _envelope(envelope)(entry_point).handle
                initialize(self.context)
            except WorkerLoadError as error:
                raise WorkerLoadError(f"{path}: {error}", error.details) from error.__cause__
            except (Exception, SystemExit) as error:
                what = f"{type(error).__name__}: {error}"
                raise WorkerLoadError(
                    f"{path}: its handler {handler} would not load: {what}", _trace()
                ) from error
        self._entry_point = entry_point

    @contextlib.contextmanager
    def _at_home(self) -> Iterator[None]:
        """The archive's folder as working directory, first on sys.path, with its own modules."""
        own = {entry.stem if entry.suffix == ".py" else entry.name for entry in self.model_dir.iterdir()}
        own -= {"sitecustomize", *sys.stdlib_module_names}
        hidden = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in own}
        for name in hidden:
            del sys.modules[name]
        sys.modules.update(self._modules)
        previous, outside = Path.cwd(), list(sys.path)
        sys.path[:0] = self._search
        importlib.invalidate_caches()
        os.chdir(self.model_dir)
        try:
            yield
        finally:
            os.chdir(previous)
            # What the handler has added itself is there again the next time, and gone until then.
            added = [entry for entry in sys.path if entry not in outside]
            self._search = list(dict.fromkeys([str(self.model_dir), *added]))
            sys.path[:] = outside
            self._modules = {n: m for n, m in sys.modules.items() if n.partition(".")[0] in own}
            for name in self._modules:
                del sys.modules[name]
            sys.modules.update(hidden)

    # -- predicting -----------------------------------------------------------------------------

    def predict(self, requests: Sequence[Request]) -> list[Response]:  # noqa: PLR0911 (one for each rule)
        """The responses to one batch, as the frontend sends them: never raises for a handler's fault."""
        if self._entry_point is None or self.context is None:
            raise RuntimeError("this worker is closed")
        data = [
            {parameter.name: _parameter_value(parameter) for parameter in request.parameters}
            for request in requests
        ]
        self.context.request_processor = [_RequestState(_headers(request)) for request in requests]
        self.context.request_ids = {index: str(uuid.uuid4()) for index in range(len(requests))}
        self.context.metrics.request_ids = self.context.request_ids
        count = len(requests)
        with self._at_home():
            try:
                answers = self._entry_point(data, self.context)
            except MemoryError:
                return [_server_error(507, "Out of resources")] * count
            except Exception as error:
                logger.warning("the handler raised", exc_info=True)
                return [_handler_error(error)] * count
            except SystemExit:
                return [_server_error(500, "Worker died.")] * count
            if not isinstance(answers, list):
                return [_server_error(503, "Invalid model predict output")] * count
            if len(answers) != count:
                return [_server_error(503, "number of batch response mismatched")] * count
            try:
                return [_response(self.context, index, answer) for index, answer in enumerate(answers)]
            except _Unserialisable:
                logger.warning("an answer cannot be serialised", exc_info=True)
                return [_server_error(503, "Unsupported model output data type.")] * count
            except Exception:  # outside of what the stock service catches: its worker dies
                logger.warning("an answer cannot be sent", exc_info=True)
                return [_server_error(500, "Worker died.")] * count


# -- the stock loader's rules -------------------------------------------------------------------


def _read_manifest(model_dir: Path) -> dict[str, Any]:
    file = model_dir / mar.MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise WorkerLoadError(f"{file}: not JSON: {error}") from None
    return manifest if isinstance(manifest, dict) else {}


def _read_config(path: Path, file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise WorkerLoadError(f"{path}: its config {file.name} cannot be read: {error}") from None


def _entry_point(handler: str) -> tuple[Callable[[Any, Any], Any], Callable[[Any], Any]]:
    """What is called with a batch, and what is called once before.

    `file:function` names a function; without it a function `handle` takes precedence over a class, and a
    class must be the only one that the module defines itself.
    """
    module, function = _handler_module(handler)
    function = function or "handle"
    if hasattr(module, function):
        entry_point = getattr(module, function)
        return entry_point, lambda context: entry_point(None, context)
    classes = [
        value
        for _, value in inspect.getmembers(module, inspect.isclass)
        if value.__module__ == module.__name__
    ]
    if len(classes) != 1:
        found = ", ".join(sorted(value.__name__ for value in classes)) or "none"
        raise WorkerLoadError(
            f"its handler {handler} defines neither a function `{function}` nor exactly one class "
            f"(found: {found}); move the others to a module of their own"
        )
    service: Any = classes[0]()
    for method in ("handle", "initialize"):
        if not hasattr(service, method):
            raise WorkerLoadError(f"its handler class {classes[0].__name__} has no method `{method}`")
    return service.handle, service.initialize


def _handler_module(handler: str) -> tuple[ModuleType, str | None]:
    """The handler's module: the archive's own, or one that TorchServe brings."""
    file, _, function = handler.partition(":")
    name = file.removesuffix(".py").split("/")[-1]
    try:
        return importlib.import_module(name), function or None
    except ImportError as error:
        own = error
        details = _trace()
    # TorchServe now looks among its own handlers, whatever the reason was, and reports only that.
    try:
        return importlib.import_module(f".{handler}", "ts.torch_handler"), None
    except ImportError as error:
        if getattr(own, "name", None) != name:  # it is there, and something that it imports is not
            raise WorkerLoadError(
                f"its handler {handler} could not be imported: {own} "
                f"(TorchServe would report \"No module named 'ts.torch_handler.{handler}'\" instead); "
                "install what is missing, or pack it",
                details,
            ) from own
        shipped = getattr(error, "name", "") or ""
        if shipped in {"ts", f"ts.torch_handler.{handler}"}:
            where = "nor, as torchserve is not installed here, looked for" if shipped == "ts" else "nor"
            raise WorkerLoadError(
                f"its handler {handler} was neither found in the archive {where} among TorchServe's own",
                details,
            ) from own
        raise WorkerLoadError(
            f"TorchServe's own handler {handler} could not be imported: {error}", _trace()
        ) from error


def _envelope(name: str) -> Callable[..., Any]:
    module = importlib.import_module(f".{name}", "ts.torch_handler.request_envelope")
    classes = [
        value
        for _, value in inspect.getmembers(module, inspect.isclass)
        if value.__module__ == module.__name__
    ]
    found: Callable[..., Any] = classes[0]
    return found


def _trace() -> str:
    return traceback.format_exc()


# -- the stock service's rules ------------------------------------------------------------------


def _parameter_value(parameter: Parameter) -> Any:
    """JSON is parsed and text decoded by their content type; what fails to is passed on as bytes."""
    raw = bytearray(parameter.value)
    if parameter.content_type == "application/json":
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(raw.decode("utf-8"))
    elif parameter.content_type.startswith("text"):
        with contextlib.suppress(UnicodeDecodeError):
            return raw.decode("utf-8")
    return raw


def _headers(request: Request) -> dict[str, Any]:
    own: dict[str, Any] = {p.name: {"content-type": p.content_type} for p in request.parameters}
    return {**own, "explain": "False", **request.headers}


def _handler_error(error: Exception) -> Response:
    """What an exception of the handler becomes, for every request of its batch."""
    stock = sys.modules.get("ts.utils.util")
    if stock is not None and isinstance(error, stock.PredictionException):
        return _server_error(error.error_code, error.message)
    if "CUDA" in str(error):
        return _server_error(507, "Out of resources")
    return _server_error(503, "Prediction failed")


def _server_error(status: int, message: str) -> Response:
    """The frontend's own error, with its mapping of 413."""
    status = 507 if status == 413 else status
    content = {"code": status, "type": "InternalServerException", "message": message}
    return Response(status, (json.dumps(content, indent=2) + "\n").encode(), "application/json")


class _Unserialisable(Exception):
    """An answer that is none of bytes, text, tensor and JSON."""


def _response(context: WorkerContext, index: int, answer: Any) -> Response:
    status, phrase = context.get_response_status(index)
    content_type = context.get_response_content_type(index) or ""
    headers = dict(context.get_response_headers(index))
    status, phrase = 200 if status is None else status, phrase or ""
    # The stock service dies of a status that is no int, and of a header that is no text.
    struct.pack("!i", status)
    for text in (content_type, phrase, *headers, *headers.values()):
        text.encode("utf-8")
    return Response(status, _serialise(answer), content_type, phrase, headers)


def _serialise(answer: Any) -> bytes:
    if isinstance(answer, bytes | bytearray):
        return bytes(answer)
    if isinstance(answer, str):
        return answer.encode("utf-8")
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(answer, torch.Tensor):
        buffer = io.BytesIO()
        torch.save(answer, buffer)
        return buffer.getvalue()
    try:
        return json.dumps(answer, indent=2).encode("utf-8")
    except TypeError as error:
        raise _Unserialisable(str(error)) from error


# -- in a process of its own --------------------------------------------------------------------


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


def check_archive(
    path: Path,
    *,
    timeout: float = 300.0,
    python: str = sys.executable,
    run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run,
) -> Check:
    """Load a .mar in a fresh process and replay its golden requests.

    `timeout` in seconds. `python` is the interpreter that would run the worker. Raises ArchiveError where it
    is no archive; everything else is told in the Check.
    """
    with tempfile.TemporaryDirectory(prefix="torchmar-check-") as temporary:
        folder, report = Path(temporary, "model").resolve(), Path(temporary, "report.json")
        mar.extract(path, folder)
        # TorchServe puts the archive on PYTHONPATH: that is what runs its sitecustomize.
        here = str(Path(__file__).resolve().parent.parent)
        existing = os.environ.get("PYTHONPATH")
        search = [*([existing] if existing else []), str(folder), here]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(search)}
        command = [python, "-m", "torchmar.worker", str(folder), str(report)]
        try:
            done = run(
                command,
                env=environment,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
                cwd=temporary,
            )
        except subprocess.TimeoutExpired:
            return Check(str(path), ok=False, reason=f"{path}: its handler did not load within {timeout:g} s")
        if not report.exists():
            last = "\n".join((done.stderr or done.stdout or "").splitlines()[-20:])
            how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
            return Check(str(path), ok=False, reason=f"{path}: its worker process died ({how})", details=last)
        content = json.loads(report.read_text(encoding="utf-8"))
    content["golden"] = tuple(GoldenResult(**result) for result in content["golden"])
    content["reason"] = content["reason"].replace(str(folder), str(path))
    return Check(**{**content, "path": str(path)})


def _check_here(folder: Path) -> Check:
    start = time.monotonic()
    try:
        worker = Worker.load(folder)
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


def _replay_golden(worker: Worker) -> Iterator[GoldenResult]:
    """Each golden request alone; the likeliest class must be the module's."""
    answers = worker.model_dir / mar.GOLDEN_ANSWERS
    if not answers.is_file():
        return
    for name, expected in json.loads(answers.read_text(encoding="utf-8")).items():
        body = (worker.model_dir / mar.GOLDEN / name).read_bytes()
        [response] = worker.predict([Request.body(body)])
        if response.status != 200:
            found: Any = f"{response.status}: {response.body.decode(errors='replace')[:200]}"
        else:
            found = _best(response, expected)
        yield GoldenResult(name, found == expected, expected, found)


def _best(response: Response, expected: Mapping[str, Any]) -> Any:
    """What the likeliest class of an answer says under the keys of `expected`."""
    try:
        best = response.json()[0]
        return {key: best.get(key) for key in expected}
    except (ValueError, LookupError, TypeError, AttributeError):  # an answer of another form
        return response.body.decode(errors="replace")[:200]


if __name__ == "__main__":
    _folder, _report = Path(sys.argv[1]), Path(sys.argv[2])
    _result = json.dumps(asdict(_check_here(_folder)))
    _report.write_text(_result, encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)  # a thread that the handler started must not keep this process
