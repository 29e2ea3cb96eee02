"""Find what TorchServe or its worker would refuse in an archive's manifest and configuration.

The server reads both in Java, and each worker again in Python; both must be able to read them.
tests/live/test_archives.py compares this with a real server.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import yaml

from .names import name_problem, shown, version_problem

# The runtimes with a worker in TorchServe 0.12's wheel, and the handlers in its ts/torch_handler.
RUNTIMES = ("python", "python3")
SHIPPED = {
    "base_handler",
    "dali_image_classifier",
    "image_classifier",
    "image_segmenter",
    "object_detector",
    "text_classifier",
    "trt_llm_handler",
    "vllm_handler",
}

# Fields that Java reads as text; it accepts numbers, but nothing nested.
TEXTS = ("createdOn", "description", "archiverVersion")
MODEL_TEXTS = ("description", "envelope", "requirementsFile", "version")

# Beyond these limits SnakeYAML gives up, and TorchServe serves the archive without its configuration.
_MAX_DEPTH = 51  # levels of nesting
_MAX_ALIASES = 50  # of lists and mappings


def manifest_faults(manifest: Mapping[str, Any], files: Iterable[str]) -> Iterator[str]:
    """Yield why the server or its worker would fail on a manifest, an object with a model in it."""
    model = manifest["model"]
    runtime = manifest.get("runtime", "python")
    if runtime not in RUNTIMES:
        yield f"write 'python' as its `runtime`: TorchServe has no worker for {_brief(runtime)}"
    for where, names in ((manifest, TEXTS), (model, MODEL_TEXTS)):
        for name in names:
            if isinstance(where.get(name), list | dict):
                yield f"write a text as its `{name}`: TorchServe refuses {_brief(where[name])}"
    yield from _text(model, "modelName", name_problem)
    if model.get("modelVersion") is not None:
        yield from _text(model, "modelVersion", version_problem)
    yield from _text(model, "handler", lambda handler: _handler_problem(handler, set(files)))
    if "configFile" in model and not model["configFile"]:
        yield f"leave its `configFile` out: TorchServe's worker ends at {_brief(model['configFile'])}"


def config_faults(content: Any, node: yaml.Node | None) -> Iterator[str]:
    """Yield why the server would fail on a configuration, or serve the archive without it."""
    if not isinstance(content, dict):
        yield f"write `name: value` lines: TorchServe refuses {_brief(content)}"
    elif other := [key for key in content if not isinstance(key, str)]:
        yield f"put quotes around its key {_brief(other[0])}: TorchServe allows only texts as keys"
    depth, aliases = _measure(node)
    if depth > _MAX_DEPTH or aliases > _MAX_ALIASES:
        what = f"at most {_MAX_DEPTH} levels and {_MAX_ALIASES} aliases of lists and mappings"
        yield f"write it with {what}: TorchServe leaves it unread otherwise, and serves by its defaults"


def _text(model: Mapping[str, Any], name: str, problem: Callable[[str], str | None]) -> Iterator[str]:
    value = model.get(name)
    if not isinstance(value, str):
        yield f"write a text as its `{name}`, in quotes, instead of {_brief(value)}"
    elif (found := problem(value)) is not None:
        yield f"its `{name}` must be another one: {found}"


def _handler_problem(handler: str, files: set[str]) -> str | None:
    """Search for the handler as ts/model_loader.py does, without importing anything."""
    file, function, _ = handler.partition(":")
    folder, slash, module = file.removesuffix(".py").rpartition("/")
    if file.startswith("/") or ".." in file.split("/"):
        return f"{shown(handler)!r} leads out of the archive"
    first, path = module.partition(".")[0], module.replace(".", "/")
    # If a function is named, TorchServe puts the file's folder before the archive.
    places = [path, f"{folder}{slash}{path}"] if function else [path]
    if any(_is_packed(place, files) for place in places) or handler in SHIPPED:
        return None
    if first == "ts" or _is_installed(first):
        return None
    return f"{shown(handler)!r} is neither in the archive nor installed here; pack {shown(path)}.py"


def _is_packed(module: str, files: set[str]) -> bool:
    library = any(file.startswith(f"{module}.") and file.endswith((".so", ".pyd")) for file in files)
    names = (f"{module}.py", f"{module}.pyc", f"{module}/__init__.py", f"{module}/__init__.pyc")
    return library or not files.isdisjoint(names)


def _is_installed(module: str) -> bool:
    try:
        return module.isidentifier() and importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _measure(node: yaml.Node | None) -> tuple[int, int]:
    """Return a document's levels, and how many lists and mappings are aliases. Handles cycles."""
    depth, aliases, seen = 0, 0, set[int]()
    waiting = [] if node is None else [(node, 1)]
    while waiting:
        here, level = waiting.pop()
        depth = max(depth, level)
        if isinstance(here, yaml.CollectionNode):
            if id(here) in seen:
                aliases += 1
                continue
            seen.add(id(here))
            for child in here.value:
                waiting += [(part, level + 1) for part in (child if isinstance(child, tuple) else (child,))]
    return depth, aliases


def _brief(value: Any) -> str:
    """Return a value of JSON or YAML in a few words."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    return "nothing" if value is None else shown(repr(value))
