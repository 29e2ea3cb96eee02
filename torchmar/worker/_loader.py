"""Apply the rules of the server and of TorchServe's loader to a manifest, a config and a handler."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from .. import mar
from ..errors import WorkerLoadError
from ..manifest import MODEL_TEXTS, RUNTIMES, TEXTS


def read_manifest(model_dir: Path) -> dict[str, Any]:
    """Return the manifest if both Java and the worker accept it; {} if there is none.

    Java is more lenient than Python: it accepts a byte order mark and comments, which kill the worker. Raises
    WorkerLoadError.
    """
    file = model_dir / mar.MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise WorkerLoadError(f"its {mar.MANIFEST} is not JSON that its worker can read: {error}") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("model", {}), dict):
        raise WorkerLoadError(f"its {mar.MANIFEST} holds no model: TorchServe does not register it")
    _require_registrable(manifest)
    return manifest


def _require_registrable(manifest: Mapping[str, Any]) -> None:
    """Raise WorkerLoadError for a manifest that Java refuses at registration, or that never starts."""
    runtime = manifest.get("runtime", "python")
    if runtime == "LSP":
        raise WorkerLoadError(
            f"set `runtime` to python in its {mar.MANIFEST}: LSP is TorchServe's C++ worker, which its "
            "package does not bring"
        )
    if runtime not in RUNTIMES:
        raise WorkerLoadError(
            f"set `runtime` to python in its {mar.MANIFEST}: TorchServe does not register {runtime!r:.60}"
        )
    model = manifest.get("model", {})
    of_the_model = (*MODEL_TEXTS, "modelName", "modelVersion", "handler", "configFile")
    texts = {name: manifest.get(name) for name in TEXTS}
    texts |= {f"model.{name}": model.get(name) for name in of_the_model}
    wrong = [name for name, value in texts.items() if isinstance(value, list | dict)]
    if not isinstance(model.get("configFile", ""), str):
        wrong.append("model.configFile")
    if wrong:
        raise WorkerLoadError(f"{', '.join(dict.fromkeys(wrong))} in its {mar.MANIFEST} must be a text")


def read_config(file: Path) -> dict[str, Any]:
    """Return an archive's settings. Raises WorkerLoadError unless Java and the worker both accept them."""
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except Exception as error:  # PyYAML's constructors raise anything, such as KeyError for `!!bool x`
        raise WorkerLoadError(f"its config {file.name} cannot be read: {error}") from None
    if not isinstance(config, dict):
        found = "empty" if config is None else f"a {type(config).__name__}"
        raise WorkerLoadError(
            f"write settings as `name: value` into its config {file.name}: it is {found}, no mapping, and "
            "TorchServe does not register that"
        )
    wrong = [key for key in config if not isinstance(key, str)]
    if wrong:
        raise WorkerLoadError(
            f"put quotes around {wrong[0]!r:.60} in its config {file.name}: TorchServe does not register "
            "settings whose names are no texts"
        )
    return config


def batch_size(config: Mapping[str, Any]) -> int:
    """Return `batchSize` as Java reads it: 1 if it is less, or no 32-bit integer."""
    value = config.get("batchSize")
    if not isinstance(value, int) or isinstance(value, bool) or value >= 2**31:
        return 1
    return max(1, value)


GENERATED = "torchmar_handler.py"
"""The generated file that selects one class of a file with several. The user has never seen it."""


def its_handler(handler: str) -> str:
    """Return the name of a manifest's handler for messages."""
    return "its handler" if handler == GENERATED else f"its handler {handler}"


def find_entry_point(handler: str) -> tuple[Callable[[Any, Any], Any], Callable[[Any], Any]]:
    """Return the function to call with a batch, and the one to call once before.

    `file:function` names a function. Without it, a function `handle` wins over a class, and a class must be
    the only one that the module itself defines.
    """
    module, function = _handler_module(handler)
    function = function or "handle"
    if hasattr(module, function):
        entry_point = getattr(module, function)
        return entry_point, lambda context: entry_point(None, context)
    classes = _own_classes(module)
    if len(classes) != 1:
        found = ", ".join(sorted(value.__name__ for value in classes)) or "none"
        raise WorkerLoadError(
            f"{its_handler(handler)} defines neither a function `{function}` nor exactly one class "
            f"(found: {found}); move the others to a module of their own"
        )
    service: Any = classes[0]()
    for method in ("handle", "initialize"):
        if not hasattr(service, method):
            raise WorkerLoadError(f"its handler class {classes[0].__name__} has no method `{method}`")
    return service.handle, service.initialize


def _handler_module(handler: str) -> tuple[ModuleType, str | None]:
    """Return the handler's module: the archive's own, or one of TorchServe's."""
    file, _, function = handler.partition(":")
    name = file.removesuffix(".py").split("/")[-1]
    try:
        return importlib.import_module(name), function or None
    except ImportError as error:
        own = error
        # the module's name and the importing line then say everything
        is_missing = isinstance(error, ModuleNotFoundError)
        details = "" if is_missing else traceback.format_exc()
        asks = _who_asks(error) if is_missing else ""
    # TorchServe now looks among its own handlers, whatever the cause, and reports only that failure.
    try:
        return importlib.import_module(f".{handler}", "ts.torch_handler"), None
    except ImportError as error:
        if getattr(own, "name", None) != name:  # the handler exists, but one of its imports does not
            raise WorkerLoadError(
                f"{its_handler(handler)} could not be imported: {own}{asks} "
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
            f"TorchServe's own handler {handler} could not be imported: {error}", traceback.format_exc()
        ) from error


def _who_asks(error: ImportError) -> str:
    """Name the line that imports the missing module."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if "importlib" not in frame.filename:
            return f", which {_place(Path(frame.filename))} line {frame.lineno} asks for"
    return ""


def _place(file: Path) -> str:
    """Return a file's path within the archive (a worker's working directory) or its package."""
    if file.is_relative_to(Path.cwd()):
        return file.relative_to(Path.cwd()).as_posix()
    roots = (Path(entry) for entry in sys.path if entry)
    found = (file.relative_to(root).as_posix() for root in roots if file.is_relative_to(root))
    return min(found, key=len, default=file.name)


def find_envelope(name: str) -> Callable[..., Any]:
    module = importlib.import_module(f".{name}", "ts.torch_handler.request_envelope")
    return _own_classes(module)[0]


def _own_classes(module: ModuleType) -> list[type[Any]]:
    """Return the classes that a module itself defines, ordered by name."""
    found = (value for _, value in inspect.getmembers(module, inspect.isclass))
    return [value for value in found if value.__module__ == module.__name__]
