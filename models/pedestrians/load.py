"""The detector of models/nanodet, for the frames of a video."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import torch


def nanodet() -> torch.nn.Module:
    """The module, with its weights. Raises OSError where they cannot be fetched."""
    package = ModuleType("_nanodet")
    package.__path__ = [str(Path(__file__).resolve().parents[1] / "nanodet")]
    sys.modules["_nanodet"] = package
    return importlib.import_module("_nanodet.load").nanodet()
