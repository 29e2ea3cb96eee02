"""Check a handler's parameters against its dataclass: types, unknown keys, descriptions for editors.

The dataclass is the handler's (handlers/params.py) and does not use pydantic.
"""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

from pydantic import ConfigDict, TypeAdapter

_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)
_ATTRIBUTE = "__pydantic_config__"


def adapter_of(kind: type[Any]) -> TypeAdapter[Any]:
    """Return a validator for a plain dataclass, as strict as model.yaml; also for dataclasses in its fields.

    pydantic looks for its configuration on the class, so it is there only during this call.
    """
    kinds = [one for one in _dataclasses_of(kind) if _ATTRIBUTE not in vars(one)]
    for one in kinds:
        setattr(one, _ATTRIBUTE, _CONFIG)
    try:
        return TypeAdapter(kind)
    finally:
        for one in kinds:
            delattr(one, _ATTRIBUTE)


def validated(kind: type[Any], content: Mapping[str, Any]) -> Any:
    """Return an instance of `kind` by JSON's rules: "1" and true are no numbers. Raises ValidationError."""
    return adapter_of(kind).validate_json(json.dumps(content, default=str), strict=True)


class UnlikeAWorkers(TypeError):
    """A parameter has a type that a worker, which has no pydantic, builds differently."""

    def __init__(self, checked: Any, made: Any) -> None:
        differ = [
            one.name for one in fields(checked) if getattr(checked, one.name) != getattr(made, one.name)
        ]
        self.name = differ[0] if differ else fields(checked)[0].name
        one, other = (getattr(each, self.name) for each in (checked, made))
        super().__init__(f"its type makes {one!r:.60} of it, and a worker has {other!r:.60}")


def schema_of(kind: type[Any], prefix: str = "") -> dict[str, Any]:
    """Return the JSON Schema of a parameters' dataclass, with the docstrings of its attributes.

    `prefix` precedes the names of its definitions.
    """
    schema = adapter_of(kind).json_schema(ref_template=f"#/$defs/{prefix}{{model}}")
    described = {one.__name__: descriptions_of(one) for one in _dataclasses_of(kind)}
    for name, part in [(kind.__name__, schema), *schema.get("$defs", {}).items()]:
        for key, value in part.get("properties", {}).items():
            value.pop("title", None)
            if key in described.get(name, {}):
                value["description"] = described[name][key]
    if "$defs" in schema:
        schema["$defs"] = {prefix + name: part for name, part in schema["$defs"].items()}
    return schema


def descriptions_of(kind: type[Any]) -> dict[str, str]:
    """Return the docstring below each attribute of a class and of its base classes; {} without source."""
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(one)))
        except (OSError, TypeError, SyntaxError):  # built in, or made at run time
            continue
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                found |= dict(_docstrings(node))
    return found


def _docstrings(definition: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for before, node in zip(definition.body, definition.body[1:], strict=False):
        if not (isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name)):
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            text = node.value.value
            if isinstance(text, str):
                yield before.target.id, inspect.cleandoc(text)


def known_keys(kind: Any, path: tuple[str, ...]) -> list[str]:
    """Return the keys of parameters at `path`; [] if unknown."""
    for part in path:
        hints = get_type_hints(kind) if is_dataclass(kind) and isinstance(kind, type) else {}
        kind = next(iter(_dataclasses_in(hints.get(part))), None)
    return [field.name for field in fields(kind)] if kind is not None and is_dataclass(kind) else []


def _dataclasses_of(kind: type[Any]) -> list[type[Any]]:
    """Return a dataclass, and those that its fields hold."""
    found = [kind]
    for one in found:
        for hint in get_type_hints(one).values():
            found += [inner for inner in _dataclasses_in(hint) if inner not in found]
    return found


def _dataclasses_in(hint: Any) -> list[type[Any]]:
    if isinstance(hint, type) and is_dataclass(hint):
        return [hint]
    return [inner for part in get_args(hint) for inner in _dataclasses_in(part)]
