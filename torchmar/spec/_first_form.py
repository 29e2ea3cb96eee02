"""Translate a model.yaml of torchmar's first form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from ..errors import Problem

_OF_INPUT = ("size", "crop", "mean", "std", "interpolation")


def old_form(data: Mapping[str, Any]) -> Problem | None:
    """Return the lines to write instead, if a file has the key `task`, which no longer exists."""
    if "task" not in data or "handler" in data:
        return None
    given = data.get("input")
    part = given if isinstance(given, dict) else {}
    params: dict[str, Any] = {}
    for value in (part.get("image"), {"labels": data.get("labels")}, data.get("output")):
        if isinstance(value, dict):
            params |= {name: each for name, each in value.items() if each is not None}
    if isinstance(part.get("limits"), dict):
        params["limits"] = part["limits"]
    lines: dict[str, Any] = {"handler": "image_classifier", "params": params}
    if isinstance(data.get("accept"), dict):
        renamed = {"top1_agreement": "agreement"}
        lines["accept"] = {renamed.get(name, name): value for name, value in data["accept"].items()}
    gone = [name for name in ("task", "input", "labels", "output", "accept") if name in data]
    text = yaml.safe_dump(lines, sort_keys=False, default_flow_style=None, allow_unicode=True, width=100)
    what = f"write these lines instead of {', '.join(gone)}:\n" + "".join(
        f"    {line}\n" for line in text.splitlines()
    )
    return Problem("task", what.rstrip(), 0)
