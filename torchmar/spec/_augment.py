"""Read how pictures are augmented while a module is trained: `rotate=15,shift=0.1`, or a function."""

from __future__ import annotations

import difflib
from dataclasses import dataclass


@dataclass(frozen=True)
class _Range:
    """The values that an augmentation takes, above 0 and up to `most`; `value` if none is written."""

    unit: str
    most: float
    value: float | None = None


PICTURE_AUGMENTATIONS = {
    "flip": _Range("PROBABILITY", 1.0, value=0.5),
    "rotate": _Range("DEGREES", 180.0),
    "shift": _Range("SHARE", 1.0),
    "crop": _Range("SHARE", 1.0),
    "color": _Range("SHARE", 1.0),
    "noise": _Range("SIGMA", 1.0),
}
"""By name. flip mirrors left and right. rotate is up to so many degrees either way. shift moves by up to a
share of the width and of the height. crop leaves at least a share of the area. color changes brightness,
contrast and saturation by up to a share. noise is Gaussian, of pixels from 0 to 1."""


def is_function(augment: str) -> bool:
    """Return whether it names a function of the model's folder, as file:function."""
    return ":" in augment


def picture_augmentations(augment: str) -> dict[str, float]:
    """Return the augmentations of pictures that a text names, in its order. Raises ValueError."""
    found: dict[str, float] = {}
    for written in filter(None, map(str.strip, augment.split(","))):
        name, equals, number = (part.strip() for part in written.partition("="))
        kind = PICTURE_AUGMENTATIONS.get(name)
        if kind is None:
            close = difflib.get_close_matches(name, PICTURE_AUGMENTATIONS, n=1)
            known = ", ".join(f"{each}={one.unit}" for each, one in PICTURE_AUGMENTATIONS.items())
            remedy = f"did you mean {close[0]}?" if close else f"write some of {known}, or file:function"
            raise ValueError(f"{remedy} (found {written!r})")
        if name in found:
            raise ValueError(f"write {name} once (found {augment!r})")
        found[name] = _number(name, kind, number if equals else None)
    return found


def _number(name: str, kind: _Range, written: str | None) -> float:
    try:
        value = kind.value if written is None else float(written)
    except ValueError:
        value = None
    if value is None or not 0 < value <= kind.most:
        was = name if written is None else f"{name}={written}"
        raise ValueError(f"write {name}={kind.unit}, above 0 and at most {kind.most:g} (found {was!r})")
    return value
