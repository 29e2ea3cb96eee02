"""Read model.yaml into a ModelSpec; reports every problem of a file at once, with its line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from ..errors import Problem, SpecError
from ..files import decode_text, exists
from ..handler import names_of_ours
from ..handler_code import handlers
from ..names import shown
from ..params import schema_of
from ._first_form import old_form
from ._meaning import check_handler, check_meaning
from ._model import ModelSpec
from ._problems import Places, duplicate_keys, explain
from ._source import SPEC_FILE, ModelSource

_ADAPTER = TypeAdapter(ModelSpec)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of model.yaml for editors, with the params of torchmar's handlers."""
    schema = _ADAPTER.json_schema(by_alias=True)
    cases = []
    for name in names_of_ours():
        kind = handlers(name).Handler.params_type()
        params = schema_of(kind, prefix=f"{name}.")
        schema.setdefault("$defs", {}).update(params.pop("$defs", {}))
        chosen = {"properties": {"handler": {"const": name}}}
        cases.append({"if": chosen, "then": {"properties": {"params": params}}})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "allOf": cases,
        "title": "torchmar model.yaml",
    }


def load_model(path: Path, overrides: Mapping[str, Any] | None = None) -> ModelSource:
    """Read a model folder, or the model.yaml in it.

    `overrides` replace top-level keys of the file (`version`, `runtime`), like the command line's options.
    The handler's module is imported, because it declares the params. Raises SpecError with every problem
    found.
    """
    file = path
    try:
        if path.is_dir() or path.suffix not in {".yaml", ".yml"}:
            file = path / SPEC_FILE
        text = decode_text(file.read_bytes())
    except UnicodeDecodeError:
        what = "save it as UTF-8: it is in another encoding, or no text"
        raise SpecError(str(file), [Problem("", what)]) from None
    except (OSError, ValueError) as error:  # a name with a null byte
        remedy = f"give a folder that holds a {SPEC_FILE}"
        if not exists(path):
            raise SpecError(str(path), [Problem("", "no such file or folder", remedy=remedy)]) from None
        why = getattr(error, "strerror", None) or error
        what = f"no {file.name} in it" if isinstance(error, FileNotFoundError) else f"cannot be read: {why}"
        raise SpecError(str(path), [Problem("", what, remedy=remedy)]) from None
    spec = parse_spec(text, str(file), file.parent, overrides)
    return ModelSource(file.parent, spec, file.name)


def parse_spec(
    text: str, file: str, directory: Path, overrides: Mapping[str, Any] | None = None
) -> ModelSpec:
    """Return the spec in `text`; `file` names it in errors, `directory` holds its files."""
    try:
        document = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
        # Circular anchors and numbers of thousands of digits are YAML, but cannot be shown.
        json.dumps(data, default=str, skipkeys=True)
    except Exception as error:  # PyYAML's constructors raise anything, such as KeyError for `!!bool x`
        mark = getattr(error, "problem_mark", None)
        what = f"not YAML: {getattr(error, 'problem', None) or str(error) or type(error).__name__}"
        raise SpecError(file, [Problem("", what, mark.line + 1 if mark else 0)]) from None
    _require_keys(data, file)
    old = old_form(data)
    if old is not None:
        raise SpecError(file, [old])
    problems = list(duplicate_keys(document))
    if overrides and isinstance(document, yaml.MappingNode):
        data = {**data, **overrides}
        # An overridden key is not in the file, so no line of it is at fault.
        document.value = [pair for pair in document.value if pair[0].value not in overrides]
    places = Places(document)
    try:
        spec = _ADAPTER.validate_python(data)
    except ValidationError as error:
        wrong = explain(error, data, places)
        problems += wrong
        try:
            spec = _ADAPTER.validate_python(_without(data, [problem.where for problem in wrong]))
        except ValidationError:  # too much is wrong
            raise SpecError(file, sorted(problems, key=lambda problem: problem.line)) from None
        # Replacements stood in for unreadable keys in the remaining checks, so report nothing about those
        # keys.
        unread = {problem.where.split(".")[0] for problem in wrong}
    else:
        unread = set()
    meaning = [*check_meaning(spec, directory, places)]
    if "handler" not in unread:
        meaning += check_handler(ModelSource(directory, spec), places)
    problems += [problem for problem in meaning if problem.where.split(".")[0] not in unread]
    if problems:
        raise SpecError(file, sorted(problems, key=lambda problem: problem.line))
    return spec


def _require_keys(data: Any, file: str) -> None:
    if data is None:
        raise SpecError(file, [Problem("", "the file is empty", remedy="it begins with `name:`")])
    if not isinstance(data, dict):
        found = "a list" if isinstance(data, list) else f"only {shown(str(data))!r}"
        raise SpecError(file, [Problem("", f"expected keys with values, found {found}")])


def check_again(source: ModelSource) -> None:
    """Check a model.yaml against its folder after `prepare` has run. Raises SpecError."""
    places = Places(yaml.compose(decode_text(source.file.read_bytes()), Loader=yaml.SafeLoader))
    there = replace(source, spec=replace(source.spec, prepare=None))
    problems = [*check_meaning(there.spec, there.directory, places), *check_handler(there, places)]
    if problems:
        raise SpecError(str(source.file), problems)


def _without(data: Mapping[str, Any], wrong: Sequence[str]) -> dict[str, Any]:
    """Return `data` without its wrong top-level keys, with valid values for required ones."""
    sound: dict[str, Any] = {"name": "a", "version": "a", "handler": "a"}
    unsound = {where.split(".")[0] for where in wrong}
    return {**sound, **{key: value for key, value in data.items() if key not in unsound}}
