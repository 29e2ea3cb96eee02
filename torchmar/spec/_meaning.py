"""Check what types alone cannot: names, files that must exist, values that must fit together."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic.alias_generators import to_camel
from pydantic.errors import PydanticUserError

from ..compare import Comparator
from ..errors import Problem
from ..failures import explained
from ..files import decode_text, exists, is_file
from ..handler import STOCK, STOCK_NAMES, names_of_ours
from ..handler_code import FAILURES, ModelCode
from ..model_files import files_of, matching, requests_in
from ..names import LONGEST, shown
from ..params import UnlikeAWorkers, known_keys
from ..python_files import names
from ._augment import is_function, picture_augmentations
from ._model import Compress, ModelSpec, Serving
from ._problems import Places, explain
from ._source import ModelSource

# TorchServe's own pattern for names. A name or version that begins with "token" cannot be managed: TorchServe
# takes every management URL with "/token" for its token API. It registers no file with `..` in its name, so
# NAME-VERSION.mar must not have it.
_NAME = re.compile(r"(?!token)(?!.*\.(\.|$))[A-Za-z0-9][A-Za-z0-9_\-.]*")
_FUNCTION = re.compile(r"[A-Za-z_]\w*:[A-Za-z_]\w*")
# The settings that model-config.yaml gets from `serving`; `threads` is torchmar's own.
_SERVED = {to_camel(one.name) for one in fields(Serving)} - {"threads"}
_PART = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def check_meaning(spec: ModelSpec, directory: Path, places: Places) -> Iterator[Problem]:
    """Check everything that does not need the handler."""

    def problem(where: str, what: str, remedy: str = "") -> Problem:
        return Problem(where, what, places.line(where.split(".")), remedy)

    yield from _check_names(spec, problem)
    serving = spec.serving
    if serving.max_workers is not None and serving.max_workers < serving.min_workers:
        what = f"{serving.max_workers} is below minWorkers, {serving.min_workers}"
        yield problem("serving.maxWorkers", what, "TorchServe would ignore both")
    if spec.record is not None and not spec.record.folder.startswith("/"):
        remedy = "an absolute path: a worker runs in a folder that TorchServe removes"
        yield problem("record.folder", f"found {spec.record.folder!r}", remedy)
    yield from _check_config(spec, problem)
    yield from _check_what_is_served(spec, directory, problem)
    yield from _check_compress(spec, directory, problem)
    yield from _check_data(spec, "reference", spec.reference, directory, problem)
    if spec.compare is not None:
        try:
            Comparator.of(spec.compare)
        except ValueError as error:
            yield problem("compare", str(error))
    if spec.golden is not None:
        try:
            requests_in(directory / spec.golden)
        except (OSError, ValueError) as error:  # no folder, or a name with a null byte
            what = f"no folder {shown(spec.golden)} with files in it beside model.yaml"
            yield problem("golden", what, getattr(error, "strerror", None) or str(error))
    for requirement in spec.requirements:
        if not requirement.isprintable():
            yield problem("requirements", f"found {shown(requirement)!r}", "one requirement, in one line")
    yield from _check_listed(spec, directory, problem)


def _check_names(spec: ModelSpec, problem: Any) -> Iterator[Problem]:
    for key, value in (("name", spec.name), ("version", spec.version)):
        if not _NAME.fullmatch(value) or (key == "version" and value == "all"):
            remedy = "letters, digits, `_`, `-` and single `.` within, not beginning with `token`" + (
                "; `all` is TorchServe's word for every version" if key == "version" else ""
            )
            yield problem(key, f"found {shown(value)!r}, which TorchServe cannot manage", remedy)
    together = len(spec.name) + len(spec.version)
    if together > LONGEST:
        key = "name" if len(spec.name) >= len(spec.version) else "version"
        remedy = f"at most {LONGEST}: they are the name of one file"
        yield problem(key, f"name and version have {together:,} characters together", remedy)


def _check_config(spec: ModelSpec, problem: Any) -> Iterator[Problem]:
    for key in sorted(spec.config.keys() & (_SERVED | {"handler"})):
        section = "params" if key == "handler" else "serving"
        what = f"it is set by `{section}`, and would have two values"
        yield problem(f"config.{key}", what, f"write it under `{section}` alone")


def _check_what_is_served(spec: ModelSpec, directory: Path, problem: Any) -> Iterator[Problem]:
    for key, parts in (("source", spec.sources), ("artifact", spec.artifacts)):
        for part, value in parts.items():
            where = key if isinstance(getattr(spec, key), str) else f"{key}.{part}"
            if not _PART.fullmatch(part):
                yield problem(where, f"found {shown(part)!r}", "letters, digits and `_`: it names a file")
            if key == "artifact":
                # `prepare` may still bring the file.
                if not is_file(directory / value) and spec.prepare is None:
                    yield problem(where, f"no file {shown(value)} beside model.yaml")
            else:
                yield from _check_function(where, value, directory, problem)
    if spec.prepare is not None:
        yield from _check_function("prepare", spec.prepare, directory, problem)
    if spec.artifacts and spec.sources and spec.artifacts.keys() != spec.sources.keys():
        what = f"has the parts {', '.join(spec.artifacts)}, `source` {', '.join(spec.sources)}"
        yield problem("artifact", what, "the state dict of each part of `source`")


# What belongs to one way of quantising alone.
_ONLY_WITH = {"calibration": "int8", "calibration_share": "int8", "bits": "weights"}


def _check_compress(spec: ModelSpec, directory: Path, problem: Any) -> Iterator[Problem]:
    compress = spec.compress
    if compress is None:
        for key in ("cost", "metric_drop"):
            if getattr(spec.accept, key) is not None:
                yield problem(f"accept.{key}", "nothing is compressed", "write `compress`, or leave it out")
        return
    served = [name for name in spec.artifacts.values() if not name.endswith(".onnx")]
    if spec.sources and spec.export_to != "onnx":
        yield problem("compress", f"only ONNX is compressed, not {spec.export_to}", "write `runtime: onnx`")
    elif served and not spec.sources:
        yield problem("compress", f"only ONNX is compressed, not {shown(served[0])}", "leave it out")
    for key, way in _ONLY_WITH.items():
        if getattr(compress, key) is not None and compress.quantize != way:
            what = f"this is for `quantize: {way}`, not for {compress.quantize}"
            yield problem(f"compress.{key}", what, "leave it out")
    yield from _check_prune(spec, compress, problem)
    yield from _check_augment(compress, directory, problem)
    for key in ("data", "train"):
        yield from _check_data(spec, f"compress.{key}", getattr(compress, key), directory, problem)


def _check_data(
    spec: ModelSpec, key: str, name: str | None, directory: Path, problem: Any
) -> Iterator[Problem]:
    if name is None:
        return
    data = PurePosixPath(name)
    if data.is_absolute() or ".." in data.parts:
        yield problem(key, f"found {shown(name)!r}", "a folder or table beside model.yaml")
    elif not exists(directory / name) and spec.prepare is None:
        yield problem(key, f"no folder or table {shown(name)!r} beside model.yaml")


def _check_prune(spec: ModelSpec, compress: Compress, problem: Any) -> Iterator[Problem]:
    if compress.prune is None:
        if compress.quantize is None:
            yield problem("compress", "nothing is done", "write `quantize`, or `prune`")
        for key in ("train", "epochs", "augment"):
            if getattr(compress, key) is not None:
                yield problem(f"compress.{key}", "nothing is pruned", "write `prune`, or leave it out")
        return
    if len(spec.sources) != 1:
        yield problem("compress.prune", "only a `source` with one part is pruned", "leave it out")
    if compress.train is None:
        yield problem("compress.prune", "pruning needs training", "name labelled requests as `train`")


def _check_augment(compress: Compress, directory: Path, problem: Any) -> Iterator[Problem]:
    if compress.augment is None:
        return
    if is_function(compress.augment):
        yield from _check_function("compress.augment", compress.augment, directory, problem)
        return
    try:
        picture_augmentations(compress.augment)
    except ValueError as error:
        yield problem("compress.augment", str(error))


def _check_function(where: str, value: str, directory: Path, problem: Any) -> Iterator[Problem]:
    if not _FUNCTION.fullmatch(value):
        yield problem(where, f"found {value!r}", "write file:function, without .py")
        return
    file = directory / (value.partition(":")[0] + ".py")
    if not is_file(file):
        yield problem(where, f"no file {file.name} beside model.yaml")


def _check_listed(spec: ModelSpec, directory: Path, problem: Any) -> Iterator[Problem]:
    if not spec.files or spec.prepare is not None:
        return
    try:
        there = files_of(directory)
    except OSError as error:
        yield problem("files", f"{error.filename}: cannot be read: {error.strerror}")
        return
    for pattern in spec.files:
        if not matching(directory, there, pattern):
            yield problem(
                "files", f"no file {shown(pattern)!r} beside model.yaml", "hidden ones are left out"
            )


# -- the handler --------------------------------------------------------------------------------

_PARAM_TYPES = "str, int, float, bool, lists, tuples, Literal, File, dataclasses"


def check_handler(source: ModelSource, places: Places) -> Iterator[Problem]:
    """Check that the handler exists, and the params that it declares."""
    spec, handler = source.spec, source.handler

    def problem(where: str, what: str, remedy: str = "") -> Problem:
        return Problem(where, what, places.line(where.split(".")), remedy)

    ours = names_of_ours()
    if handler.is_stock:
        name = spec.handler.removeprefix(STOCK)
        if name not in STOCK_NAMES:
            yield problem("handler", f"TorchServe has no handler {shown(name)!r}", ", ".join(STOCK_NAMES))
    elif handler.ours and spec.handler not in ours:
        close = difflib.get_close_matches(spec.handler, ours, n=1, cutoff=0.5)
        remedy = f"did you mean {close[0]}?" if close else f"one of {', '.join(ours)}, or FILE.py"
        yield problem("handler", f"there is no handler {shown(spec.handler)!r}", remedy)
        return
    elif handler.file is not None and not is_file(handler.file):
        yield problem("handler", f"no file {handler.file.name} beside model.yaml")
        return
    if not handler.is_batch:
        yield from _check_custom(source, problem)
        return
    if not spec.sources and not spec.artifacts:
        yield problem("source", "missing", "file:function for a module, or `artifact` for a file that exists")
    for key in ("model_file", "torch_free"):
        if getattr(spec, key):
            what = "this is for handlers of TorchServe's kind; this one is a BatchHandler"
            yield problem(key, what, "leave it out")
    yield from _check_params(source, places, problem)


def _check_custom(source: ModelSource, problem: Any) -> Iterator[Problem]:
    spec, handler = source.spec, source.handler
    there = [] if handler.file is None else names(handler.file)
    if handler.file is not None and handler.wanted is not None and there and handler.wanted not in there:
        close = difflib.get_close_matches(handler.wanted, there, n=1, cutoff=0.5)
        remedy = f"did you mean {close[0]}?" if close else f"it has {', '.join(there)}"
        yield problem("handler", f"no {handler.wanted} in {handler.file.name}", remedy)
    if spec.torch_free and handler.needs_torch:
        what = f"{spec.handler} stands on a handler of TorchServe's, and those import torch"
        yield problem("torch_free", what, "leave it out, or write a class without BaseHandler")
    if spec.params and handler.is_stock:
        remedy = "leave them out; TorchServe's settings are `config`"
        yield problem("params", f"{spec.handler} reads none", remedy)
    if spec.compress is not None:
        what = f"the handler {spec.handler} loads its model itself, and so nothing is compressed"
        yield problem("compress", what, "leave it out, or derive a BatchHandler")
    for key in ("source", "runtime"):
        if getattr(spec, key) is not None:
            what = f"the handler {spec.handler} loads its model itself, and so nothing is exported"
            yield problem(key, what, "give the file that it loads as `artifact`, or derive a BatchHandler")
    if len(spec.artifacts) > 1 or isinstance(spec.artifact, dict):
        yield problem("artifact", "expected one file", "list what else it loads under `files`")


def _check_params(source: ModelSource, places: Places, problem: Any) -> Iterator[Problem]:
    spec, model_code = source.spec, ModelCode(source.directory)
    try:
        kind = source.handler_class(model_code)
        params_kind = kind.params_type()
    except (ValueError, TypeError) as error:
        yield problem("handler", str(error))
        return
    except FAILURES as error:
        yield problem("handler", explained(source.directory, error, spec.requirements))
        return
    missing = False
    for name, path in source.file_params(kind).items():
        if not exists(source.directory / path) and spec.prepare is None:
            missing = True
            yield problem(f"params.{name}", f"no file {shown(path)} beside model.yaml")
    try:
        params = source.params(kind)
    except ValidationError as error:
        yield from explain(error, spec.params, places, section=("params",), kind=params_kind)
        return
    except UnlikeAWorkers as error:
        yield problem(f"params.{error.name}", str(error), _PARAM_TYPES)
        return
    except TypeError as error:  # a key that is no text
        yield problem("params", f"found what JSON cannot hold: {error}", "keys are texts")
        return
    except PydanticUserError as error:
        what = f"its {params_kind.__name__} has a type that cannot be checked: {str(error).splitlines()[0]}"
        yield problem("handler", what, _PARAM_TYPES)
        return
    if not missing and spec.prepare is None:
        yield from _check_setup(source, kind, params, model_code, problem)


def _check_setup(
    source: ModelSource, kind: type[Any], params: Any, model_code: ModelCode, problem: Any
) -> Iterator[Problem]:
    """Let the handler read the files in its params, as it will in a worker, and report its errors."""
    try:
        with nullcontext() if source.handler.ours else model_code.running():
            kind().open(params, source.directory, {})
    except FAILURES as error:
        about = about_param(kind, error)
        if about is None:
            yield problem("handler", explained(source.directory, error, source.spec.requirements))
        else:
            yield problem(*about)


def about_param(kind: type[Any], error: BaseException) -> tuple[str, str] | None:
    """Return the key in model.yaml and the problem, if a handler's error begins with one of its params."""
    where, colon, what = str(error).partition(": ")
    path = tuple(where.split("."))
    known = bool(colon) and path[-1] in known_keys(kind.params_type(), path[:-1])
    return (f"params.{where}", what) if known and isinstance(error, ValueError | ImportError) else None


def located(source: ModelSource, kind: type[Any], error: BaseException) -> str | None:
    """Return such an error with its place in model.yaml; None for other errors."""
    about = about_param(kind, error)
    return None if about is None else in_file(source, *about)


def in_file(source: ModelSource, where: str, what: str, remedy: str = "") -> str:
    """Return a problem of model.yaml with the file and the line of its key `where`."""
    places = Places(yaml.compose(decode_text(source.file.read_bytes()), Loader=yaml.SafeLoader))
    return f"{source.file}: {Problem(where, what, places.line(where.split('.')), remedy)}"
