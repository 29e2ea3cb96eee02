"""Finds the photograph of the requests, and those for int8's calibration, in installed packages."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_SAMPLES = {
    "sklearn": ["datasets/images/china.jpg", "datasets/images/flower.jpg"],
    "matplotlib": ["mpl-data/sample_data/grace_hopper.jpg"],
    "skimage": ["data/astronaut.png", "data/chelsea.png", "data/coffee.png", "data/rocket.jpg"],
}


def photograph() -> Path:
    """Return scikit-learn's china.jpg: 640 x 427, 197 kB. Raises FileNotFoundError with the remedy."""
    found = _files("sklearn")
    if not found:
        raise FileNotFoundError("scikit-learn brings the photograph: pip install 'torchmar[bench]'")
    return found[0]


def calibration() -> list[Path]:
    """Return all photographs that are installed; scikit-image is optional."""
    return [path for package in _SAMPLES for path in _files(package)]


def _files(package: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return []
    folder = Path(spec.origin).parent
    return [folder / name for name in _SAMPLES[package] if (folder / name).is_file()]
