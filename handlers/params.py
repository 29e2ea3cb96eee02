"""Build a handler's parameters, a frozen dataclass, from model-config.yaml.

A build checks the values (torchmar does it with pydantic and the same dataclass); a worker only fills them
in. An attribute's docstring is its description in editors.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, NewType, TypeVar, Union, get_args, get_origin, get_type_hints

P = TypeVar("P")

File = NewType("File", str)
"""A file or folder beside model.yaml; it is packed, and keeps its path."""


@dataclass(frozen=True)
class AtLeast:
    """Sets a number's lower bound: `Annotated[int, AtLeast(1)]`."""

    least: float

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        """Return the schema for pydantic, which only a build needs (docs.pydantic.dev, custom types)."""
        return {**handler(source), "ge": self.least}


@dataclass(frozen=True)
class AtMost:
    """Sets a number's upper bound: `Annotated[float, AtLeast(0), AtMost(1)]`."""

    most: float

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        """Return the schema for pydantic, as above."""
        return {**handler(source), "le": self.most}


Positive = Annotated[int, AtLeast(1)]
Share = Annotated[float, AtLeast(0), AtMost(1)]


def build_params(kind: type[P], content: Mapping[str, Any]) -> P:
    """Return an instance of the dataclass `kind`; objects become nested dataclasses, lists become tuples.

    Raises TypeError for an unknown or a missing key.
    """
    hints = get_type_hints(kind, include_extras=True)
    return kind(**{name: _value(hints.get(name), value) for name, value in content.items()})


def _value(hint: Any, value: Any) -> Any:
    for kind in _alternatives(hint):
        if isinstance(value, Mapping) and isinstance(kind, type) and is_dataclass(kind):
            return build_params(kind, value)
        if isinstance(value, list) and get_origin(kind) is tuple:
            inner = [each for each in get_args(kind) if each is not Ellipsis]
            kinds = inner if len(inner) == len(value) else inner[:1] * len(value)
            return tuple(map(_value, kinds, value))
        if isinstance(value, list) and get_origin(kind) is list:
            return [_value(get_args(kind)[0], each) for each in value]
    return value


def _alternatives(hint: Any) -> list[Any]:
    """Return the types that a value may have: those of a union, without annotations."""
    if get_origin(hint) is Annotated:
        return _alternatives(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return [each for one in get_args(hint) for each in _alternatives(one)]
    return [hint]


def file_params(kind: type[Any], content: Mapping[str, Any]) -> dict[str, str]:
    """Return the paths in parameters of type `File`, by the parameter's dotted name.

    `content` may be invalid elsewhere. None and "" name nothing; nor does a word that the parameter's own
    `Literal` lists.
    """
    hints = get_type_hints(kind, include_extras=True)
    found: dict[str, str] = {}
    for field in fields(kind):
        value = content.get(field.name, field.default)
        for each in _alternatives(hints[field.name]):
            if isinstance(each, type) and is_dataclass(each) and isinstance(value, Mapping):
                found |= {f"{field.name}.{name}": path for name, path in file_params(each, value).items()}
        kinds = _alternatives(hints[field.name])
        named = any(get_origin(each) is Literal and value in get_args(each) for each in kinds)
        if isinstance(value, str) and value and File in kinds and not named:
            found[field.name] = value
    return found
