"""Parse times and sizes: 80ms, 0.2s, 2G, 512Mi."""

from __future__ import annotations

import re

from ...errors import TuneError

_NUMBER = r"\s*([0-9]{1,12}(?:\.[0-9]{1,9})?)\s*"
_MILLISECONDS = {"ms": 1.0, "s": 1000.0}
_BYTES = {
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}


def milliseconds(text: str, option: str = "--p99") -> float:
    """Return `80ms` or `0.2s` in ms. Raises TuneError, which names `option`."""
    match = re.fullmatch(rf"{_NUMBER}(ms|s)\s*", text, re.ASCII)
    value = float(match[1]) * _MILLISECONDS[match[2]] if match else 0.0
    if value <= 0:
        raise TuneError(f"{option} {text!r}: expected a time with its unit, as 80ms or 0.2s")
    return value


def size_in_bytes(text: str, option: str = "--memory") -> int:
    """Return `2G` (10^9), `512M` or `2Gi` (2^30), each also with a B, in bytes. Raises TuneError."""
    match = re.fullmatch(rf"{_NUMBER}([kmgt]i?)b?\s*", text, re.ASCII | re.IGNORECASE)
    value = round(float(match[1]) * _BYTES[match[2].lower()]) if match else 0
    if value <= 0:
        raise TuneError(f"{option} {text!r}: expected a size with its unit, as 512M, 2G or 2Gi")
    return value
