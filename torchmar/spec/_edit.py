"""Change values of one section of a model.yaml in place, and no other byte.

Printing the parsed file would lose its layout and its comments.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import yaml

Value = str | int | float
Edit = tuple[int, int, str]  # from, until, what stands there instead


class UnsafeEdit(ValueError):
    """The file has a form of YAML in which values cannot be replaced in place."""


def edited(text: str, section: str, values: Mapping[str, Value | None]) -> str:
    """Return a model.yaml's text with these values in one of its sections; None removes a key.

    A section that is not there is added at the end. Raises UnsafeEdit if that is not safe.
    """
    try:
        before = yaml.safe_load(text)
        if not isinstance(before, dict):
            raise UnsafeEdit(section)
        result = _spliced(text, section, values)
        after = yaml.safe_load(result)
    except yaml.YAMLError as error:
        raise UnsafeEdit(str(error)) from None
    there = {**(before.get(section) or {}), **values}  # a mapping, or _spliced had refused it
    if after != {**before, section: {key: value for key, value in there.items() if value is not None}}:
        raise UnsafeEdit(section)
    return result


def in_flow(values: Mapping[str, Value | None]) -> str:
    """Return values as they are written between braces; those that are None are left out."""
    return ", ".join(f"{key}: {_written(value)}" for key, value in values.items() if value is not None)


def _written(value: Value) -> str:
    dumped = yaml.safe_dump([value], default_flow_style=True, width=math.inf, allow_unicode=True)
    return str(dumped).strip()[1:-1]


def _spliced(text: str, section: str, values: Mapping[str, Value | None]) -> str:
    document = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(document, yaml.MappingNode) or document.flow_style:
        raise UnsafeEdit(section)
    end = "\r\n" if "\r\n" in text else "\n"
    node = next((value for key, value in document.value if key.value == section), None)
    if node is None:
        gap = "" if text.endswith("\n") else end
        return f"{text}{gap}{section}: {{{in_flow(values)}}}{end}"
    if not isinstance(node, yaml.MappingNode) or not node.value:
        raise UnsafeEdit(section)
    there = {key.value: (key, value) for key, value in node.value}
    if any(not isinstance(there[name][1], yaml.ScalarNode) for name in values.keys() & there.keys()):
        raise UnsafeEdit(section)
    edits = (
        _edits_in_flow(text, node, values) if node.flow_style else _edits_in_block(text, node, values, end)
    )
    for start, stop, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[stop:]
    return text


def _edits_in_flow(text: str, node: Any, values: Mapping[str, Value | None]) -> list[Edit]:
    last = node.value[-1][1].end_mark.index
    missing = {key: value for key, value in values.items() if key not in {k.value for k, _ in node.value}}
    added = in_flow(missing)
    if all(values.get(key.value, "") is not None for key, _ in node.value):
        edits = [_replacement(value, values[key.value]) for key, value in node.value if key.value in values]
        return [*edits, (last, last, f", {added}" if added else "")]
    kept = []
    for key, value in node.value:
        new = values.get(key.value, "")
        if new is None:
            continue
        own = text[value.start_mark.index : value.end_mark.index]
        lead = text[key.start_mark.index : value.start_mark.index]
        kept.append(lead + (_written(new) if key.value in values else own))
    return [(node.value[0][0].start_mark.index, last, ", ".join(filter(None, (*kept, added))))]


def _edits_in_block(text: str, node: Any, values: Mapping[str, Value | None], end: str) -> list[Edit]:
    edits: list[Edit] = []
    for key, value in node.value:
        if key.value not in values:
            continue
        if values[key.value] is None:
            begin = text.rfind("\n", 0, key.start_mark.index) + 1
            edits.append((begin, _after_line(text, value.end_mark.index), ""))
        else:
            edits.append(_replacement(value, values[key.value]))
    missing = {key: value for key, value in values.items() if key not in {k.value for k, _ in node.value}}
    indent = " " * node.value[0][0].start_mark.column
    lines = [f"{indent}{key}: {_written(value)}{end}" for key, value in missing.items() if value is not None]
    if lines:
        at = _after_line(text, node.value[-1][1].end_mark.index)
        lead = "" if at == 0 or text[at - 1] == "\n" else end
        edits.append((at, at, lead + "".join(lines)))
    return edits


def _after_line(text: str, index: int) -> int:
    found = text.find("\n", index)
    return len(text) if found < 0 else found + 1


def _replacement(node: Any, value: Value | None) -> Edit:
    if node.style in {"|", ">"} or value is None:
        raise UnsafeEdit(str(value))
    return node.start_mark.index, node.end_mark.index, _written(value)
