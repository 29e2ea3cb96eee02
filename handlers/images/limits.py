"""What one request may cost before anything is inferred."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..params import Positive


@dataclass(frozen=True)
class Limits:
    """What one request may cost."""

    max_bytes: Positive = 6_000_000
    """Bytes of one picture file; TorchServe's own max_request_size is 6,553,500."""
    max_pixels: Positive = 50_000_000
    """Width times height of one picture: a small file can be a very large one."""
    max_instances: Positive = 16
    """Pictures in one JSON request."""
    max_total_pixels: Positive | None = None
    """Width times height of all pictures of a request; a JPEG's scans after the tenth count a tenth each. The
    default is 100,000,000, or max_pixels where that is more."""

    @property
    def total_pixels(self) -> int:
        """Pixels that all pictures of one request may have together, as `Picture.cost` counts them."""
        return self.max_total_pixels or max(100_000_000, self.max_pixels)

    def about(self) -> dict[str, Any]:
        """What may be sent, as a handler's `about` tells it."""
        return {
            "accepts": ["image/jpeg", "image/png", "image/webp"],
            "limits": {**asdict(self), "max_total_pixels": self.total_pixels},
        }
