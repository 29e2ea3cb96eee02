"""The stock loader's rules (ts/model_loader.py): which entry point of an archive is called."""

from __future__ import annotations

import importlib
import inspect
import json
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from .. import mar
from ..errors import WorkerLoadError


def read_manifest(model_dir: Path) -> dict[str, Any]:
    file = model_dir / mar.MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise WorkerLoadError(f"{file}: not JSON: {error}") from None
    return manifest if isinstance(manifest, dict) else {}


def read_config(path: Path, file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise WorkerLoadError(f"{path}: its config {file.name} cannot be read: {error}") from None


def find_entry_point(handler: str) -> tuple[Callable[[Any, Any], Any], Callable[[Any], Any]]:
    """What is called with a batch, and what is called once before.

    `file:function` names a function; without it a function `handle` takes precedence over a class, and a
    class must be the only one that the module defines itself.
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
        details = traceback.format_exc()
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
            f"TorchServe's own handler {handler} could not be imported: {error}", traceback.format_exc()
        ) from error


def find_envelope(name: str) -> Callable[..., Any]:
    module = importlib.import_module(f".{name}", "ts.torch_handler.request_envelope")
    return _own_classes(module)[0]


def _own_classes(module: ModuleType) -> list[type[Any]]:
    """The classes that a module defines itself, in the order of their names."""
    found = (value for _, value in inspect.getmembers(module, inspect.isclass))
    return [value for value in found if value.__module__ == module.__name__]
