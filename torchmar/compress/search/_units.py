"""Parse durations: 90s, 10m, 1h."""

from __future__ import annotations

import re

from ...errors import ExportError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def seconds_of(text: str, option: str = "--budget") -> float:
    """Return `90s`, `10m` or `1h` in seconds. Raises ExportError, which names `option`."""
    match = re.fullmatch(r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*([smh])\s*", text, re.ASCII)
    value = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if value <= 0:
        raise ExportError(f"{option} {text!r}: expected a time with its unit, as 90s, 10m or 1h")
    return value
