"""Apply torchvision's ToTensor and Normalize: uint8 (n, height, width, 3) to float32 (n, 3, h, w)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MOST = 2.0  # no pixel from 0 to 1 deviates so far

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class Normalize:
    """Computes (pixels / 255 - mean) / std, for each of red, green and blue."""

    mean: Channels
    std: Channels

    def require_sound(self) -> None:
        """Raise ValueError if a standard deviation is not positive, or values are for pixels up to 255."""
        if any(value <= 0 for value in self.std):
            raise ValueError(f"std: found {list(self.std)}: each must be above 0")
        for name, found in (("mean", self.mean), ("std", self.std)):
            if max(found) > _MOST:
                divided = [float(f"{value / 255:.4g}") for value in found]
                what = f"found {list(found)}, of pixels up to 255, which are divided by 255 first"
                raise ValueError(f"{name}: {what}; write {divided}, and divide mean and std alike")

    def of_arrays(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute by numpy."""
        scaled = pixels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
        mean, std = (np.array(each, dtype=np.float32)[:, None, None] for each in (self.mean, self.std))
        normalised: NDArray[np.float32] = (scaled - mean) / std
        return normalised

    def of_tensors(self, pixels: Any) -> Any:
        """Compute by torch, with torchvision's operations in its order, for identical results.

        `pixels` may also be floating-point, from 0 to 255.
        """
        import torch

        scaled = pixels.permute(0, 3, 1, 2).to(torch.float32) / 255
        mean, std = (
            torch.tensor(each, dtype=torch.float32, device=pixels.device)[:, None, None]
            for each in (self.mean, self.std)
        )
        return (scaled - mean) / std
