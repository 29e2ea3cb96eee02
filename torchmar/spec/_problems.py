"""Explain what is wrong in a model.yaml, in its own terms, each with its line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from ..errors import Problem
from ..params import known_keys
from ._model import ModelSpec, Serving

_AT = re.compile(r"(?P<where>[A-Za-z_]\w*(?:\.\w+)*): (?P<what>.*)", re.DOTALL)


class Places:
    """Locates keys in a file."""

    def __init__(self, document: yaml.Node | None) -> None:
        self._document = document

    def line(self, path: Sequence[str | int]) -> int:
        """Return the line of the deepest part of `path` in the file; 0 for the file itself."""
        return self.locate(path)[0]

    def locate(self, path: Sequence[str | int]) -> tuple[int, yaml.Node | None]:
        """Return the deepest part of `path` in the file, and its line."""
        line, node = 0, self._document
        for part in path:
            if isinstance(node, yaml.MappingNode):
                found = [pair for pair in node.value if pair[0].value == str(part)]
                if not found:
                    break
                line, node = found[-1][0].start_mark.line + 1, found[-1][1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                line = node.start_mark.line + 1
            else:
                break
        return line, node


def duplicate_keys(node: yaml.Node | None, prefix: str = "") -> Iterator[Problem]:
    """Find repeated keys: YAML silently lets the later one win."""
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            yield from duplicate_keys(child, prefix)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for key, value in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name in seen:
            yield Problem(prefix + name, f"given twice, first in line {seen[name]}", line)
        seen.setdefault(name, line)
        yield from duplicate_keys(value, f"{prefix}{name}.")


def explain(
    error: ValidationError,
    data: Any,
    places: Places,
    *,
    section: Sequence[str] = (),
    kind: Any = ModelSpec,
) -> list[Problem]:
    """Translate pydantic's errors into terms of model.yaml; one for each place in the file.

    `data` is the content that was checked against `kind`; it lies in the file's `section`.
    """
    problems: dict[tuple[str | int, ...], Problem] = {}
    for item in _of_one_branch(error.errors(include_url=False), data):
        inner = _path_in_file(item["loc"], data, item["type"])
        if item["type"] == "missing" and isinstance(inner[-1], int):  # the list is too short
            inner = inner[:-1]
        line, node = places.locate((*section, *inner))
        what, remedy = _describe(item, inner, node, kind)
        at = _AT.fullmatch(what) if item["type"] == "value_error" else None
        if at is not None:  # a dataclass's own check names its key
            inner, what = (*inner, *at["where"].split(".")), at["what"]
            what, _, remedy = what.partition("; ")
            line = places.line((*section, *inner))
        path = (*section, *inner)
        before = problems.get(path)
        if before is not None:  # each branch of a union complains
            what, remedy = _together(before.what, what), before.remedy or remedy
        problems[path] = Problem(".".join(map(str, path)), what, line, remedy)
    return list(problems.values())


def _together(one: str, other: str) -> str:
    """Merge what two branches of a union say about one value."""
    start, expected, rest = other.partition(_EXPECTED)
    for message in (one, other):
        if message.startswith("found the "):  # its remedy is to write quotes
            return message
    if one == other or (expected and one.endswith(rest)):
        return one
    return f"{one} or {rest}" if expected and one.startswith(start + expected) else f"{one}; or {other}"


def _of_one_branch(items: Sequence[Any], data: Any) -> list[Any]:
    """Drop the errors of union branches for another kind of value than the given list or keys.

    A branch that complains about the inside of a value is the right branch.
    """
    paths = [_path_in_file(item["loc"], data, item["type"]) for item in items]
    return [
        item
        for item, path in zip(items, paths, strict=True)
        if not item["type"].endswith("_type")
        or not any(len(other) > len(path) and other[: len(path)] == path for other in paths)
    ]


def _path_in_file(location: Sequence[str | int], data: Any, kind: str) -> tuple[str | int, ...]:
    """Return pydantic's location without the names of union branches, which the file does not have."""
    path: list[str | int] = []
    for position, part in enumerate(location):
        is_key = isinstance(data, dict) and part in data
        is_index = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if is_key or is_index:
            data = data[part]
        elif not (kind.startswith("missing") and position == len(location) - 1):
            continue
        path.append(part)
    return tuple(path)


# Pydantic's error types in terms of YAML; see its page "Validation Errors".
_KINDS = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("list_type", "tuple_type"), "a list, as [a, b]"),
    **dict.fromkeys(("dict_type", "dataclass_type"), "keys with values"),
    "string_type": "a text",
    "finite_number": "a finite number",
    "none_required": "nothing",
}
_BOUNDS = {
    "greater_than_equal": "at least {}",
    "greater_than": "more than {}",
    "less_than_equal": "at most {}",
    "less_than": "less than {}",
}
_EXPECTED = ", expected "


def _describe(item: Any, path: Sequence[str | int], node: yaml.Node | None, of: Any) -> tuple[str, str]:
    """Return the problem and the remedy."""
    kind, value = item["type"], item["input"]
    if kind in {"unexpected_keyword_argument", "extra_forbidden"}:
        known = _known_keys(of, path[:-1])
        close = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
        return "not a known key", f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
    if kind == "value_error":
        return str(item["ctx"]["error"]), ""
    is_list = isinstance(value, list)
    if kind.startswith("missing") and not is_list:
        return "missing", ""
    if kind == "string_type" and value is not None and isinstance(node, yaml.ScalarNode):
        names = {"int": "number", "float": "number", "bool": "word"}
        found = names.get(type(value).__name__, type(value).__name__)
        text = str(value) if item["loc"][-1] == "[key]" else node.value  # 1.10, not 1.1
        return f"found the {found} {text if found == 'word' else value}", f'write it in quotes: "{text}"'
    items = _items(of, path) if is_list or kind == "tuple_type" else ()
    expected, remedy = _of_items(items, value) if items else _expected(item)
    return f"found {_shown(value)}{_EXPECTED if expected else ': '}{expected or item['msg']}", remedy


def _of_items(items: Sequence[Any], value: Any) -> tuple[str, str]:
    """Return the items that a tuple takes, and the remedy if one number was given."""
    numbers = all(each in (int, float) for each in items)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    expected = f"{len(items)} {'numbers' if numbers else 'items'} in a list"
    return expected, f"write {[value] * len(items)}" if number and numbers else ""


def _expected(item: Any) -> tuple[str, str]:
    """Return the expected value, "" if there are no words for it, and the remedy."""
    kind, value = item["type"], item["input"]
    if kind == "literal_error":
        expected = item["ctx"]["expected"]
        close = difflib.get_close_matches(str(value), re.findall(r"'([^']+)'", expected), n=1, cutoff=0.5)
        return expected, f"did you mean {close[0]}?" if close else ""
    bounds = map(_number, item.get("ctx", {}).values())
    expected = _KINDS.get(kind) or _BOUNDS.get(kind, "").format(*bounds)
    return expected, f"write [{value}]" if kind == "list_type" and isinstance(value, str) else ""


def _shown(value: Any) -> str:
    """Return a value in YAML's words, if Python has other words."""
    return {None: "nothing", True: "true", False: "false"}[value] if _is_word(value) else repr(value)


def _number(bound: Any) -> Any:
    """Return a bound without the `.0` of Python's floats."""
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound


def _is_word(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _items(kind: Any, path: Sequence[str | int]) -> Sequence[Any]:
    """Return the item types of the tuple that `kind` has at `path`; () for none, or any number."""
    for part in path:
        hints = get_type_hints(kind) if is_dataclass(kind) and isinstance(kind, type) else {}
        kind = hints.get(str(part))
        kind = next((each for each in _kinds_in(kind) if is_dataclass(each)), kind)
    tuples = [get_args(each) for each in _kinds_in(kind) if get_origin(each) is tuple]
    return next((items for items in tuples if Ellipsis not in items), ())


def _kinds_in(hint: Any) -> list[Any]:
    """Return a type, or the types of a union."""
    union = get_origin(hint) in (Union, UnionType)
    return [inner for each in get_args(hint) for inner in _kinds_in(each)] if union else [hint]


def _known_keys(kind: Any, path: Sequence[str | int]) -> list[str]:
    """Return the keys of `kind` at `path`."""
    if kind is not ModelSpec:
        return known_keys(kind, tuple(str(part) for part in path if isinstance(part, str)))
    for part in path:
        hint = get_type_hints(kind).get(str(part)) if is_dataclass(kind) else None
        kind = next((each for each in (hint, *get_args(hint)) if is_dataclass(each)), None)
    if kind is None:
        return []
    return [to_camel(f.name) if kind is Serving else f.name for f in fields(kind)]
