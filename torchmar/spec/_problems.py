"""What is wrong in a model.yaml, in its own words, each with its line."""

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
    """Where in a file its keys are."""

    def __init__(self, document: yaml.Node | None) -> None:
        self._document = document

    def line(self, path: Sequence[str | int]) -> int:
        """The line of the deepest part of `path` that the file has; 0 for the file itself."""
        return self.locate(path)[0]

    def locate(self, path: Sequence[str | int]) -> tuple[int, yaml.Node | None]:
        """The deepest part of `path` that the file has, and its line."""
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
    """YAML lets a later key replace an earlier one without a word."""
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
    """Pydantic's errors in the words of model.yaml; one for each place in the file.

    `data` is what was held against `kind`, and stands in the file's `section`.
    """
    problems: dict[tuple[str | int, ...], Problem] = {}
    for item in _of_one_branch(error.errors(include_url=False), data):
        inner = _path_in_file(item["loc"], data, item["type"])
        if item["type"] == "missing" and isinstance(inner[-1], int):  # of a list too short
            inner = inner[:-1]
        line, node = places.locate((*section, *inner))
        what, remedy = _describe(item, inner, node, kind)
        at = _AT.fullmatch(what) if item["type"] == "value_error" else None
        if at is not None:  # a dataclass's own check, which says which key it is about
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
    """What two branches of a union say of one value, once."""
    start, expected, rest = other.partition(_EXPECTED)
    for said in (one, other):
        if said.startswith("found the "):  # and to be written in quotes
            return said
    if one == other or (expected and one.endswith(rest)):
        return one
    return f"{one} or {rest}" if expected and one.startswith(start + expected) else f"{one}; or {other}"


def _of_one_branch(items: Sequence[Any], data: Any) -> list[Any]:
    """The errors less those of a union's branches that take something else than the list or keys given.

    Where a branch complains of what is inside a value, it is the branch that was meant.
    """
    paths = [_path_in_file(item["loc"], data, item["type"]) for item in items]
    return [
        item
        for item, path in zip(items, paths, strict=True)
        if not item["type"].endswith("_type")
        or not any(len(other) > len(path) and other[: len(path)] == path for other in paths)
    ]


def _path_in_file(location: Sequence[str | int], data: Any, kind: str) -> tuple[str | int, ...]:
    """Pydantic's location less the names of union branches, which the file does not have."""
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


# What pydantic's types of errors mean, in words of YAML; see its page "Validation Errors".
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
    """What is wrong, and the remedy."""
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
    """What a tuple takes, and what to write where one number was given."""
    numbers = all(each in (int, float) for each in items)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    expected = f"{len(items)} {'numbers' if numbers else 'items'} in a list"
    return expected, f"write {[value] * len(items)}" if number and numbers else ""


def _expected(item: Any) -> tuple[str, str]:
    """What any other value should be, "" where there are no words for it; and the remedy."""
    kind, value = item["type"], item["input"]
    if kind == "literal_error":
        expected = item["ctx"]["expected"]
        close = difflib.get_close_matches(str(value), re.findall(r"'([^']+)'", expected), n=1, cutoff=0.5)
        return expected, f"did you mean {close[0]}?" if close else ""
    bounds = map(_number, item.get("ctx", {}).values())
    expected = _KINDS.get(kind) or _BOUNDS.get(kind, "").format(*bounds)
    return expected, f"write [{value}]" if kind == "list_type" and isinstance(value, str) else ""


def _shown(value: Any) -> str:
    """A value as YAML has it, where Python has another word."""
    return {None: "nothing", True: "true", False: "false"}[value] if _is_word(value) else repr(value)


def _number(bound: Any) -> Any:
    """A bound without the `.0` of Python's floats."""
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound


def _is_word(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _items(kind: Any, path: Sequence[str | int]) -> Sequence[Any]:
    """The types of the items of the tuple that `kind` has at `path`; () for none, or any number."""
    for part in path:
        hints = get_type_hints(kind) if is_dataclass(kind) and isinstance(kind, type) else {}
        kind = hints.get(str(part))
        kind = next((each for each in _kinds_in(kind) if is_dataclass(each)), kind)
    tuples = [get_args(each) for each in _kinds_in(kind) if get_origin(each) is tuple]
    return next((items for items in tuples if Ellipsis not in items), ())


def _kinds_in(hint: Any) -> list[Any]:
    """A type, and those of its union."""
    union = get_origin(hint) in (Union, UnionType)
    return [inner for each in get_args(hint) for inner in _kinds_in(each)] if union else [hint]


def _known_keys(kind: Any, path: Sequence[str | int]) -> list[str]:
    """The keys that `kind` knows at `path`."""
    if kind is not ModelSpec:
        return known_keys(kind, tuple(str(part) for part in path if isinstance(part, str)))
    for part in path:
        hint = get_type_hints(kind).get(str(part)) if is_dataclass(kind) else None
        kind = next((each for each in (hint, *get_args(hint)) if is_dataclass(each)), None)
    if kind is None:
        return []
    return [to_camel(f.name) if kind is Serving else f.name for f in fields(kind)]
