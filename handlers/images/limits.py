"""Limit what one request may cost before inference."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..params import Positive


@dataclass(frozen=True)
class Limits:
    """The limits of one request."""

    max_bytes: Positive = 6_000_000
    """The most bytes of one picture file; TorchServe's own max_request_size is 6,553,500."""
    max_pixels: Positive = 50_000_000
    """The most pixels, width times height, of one picture: a small file can be a very large picture."""
    max_instances: Positive = 16
    """The most pictures in one JSON request."""
    max_total_pixels: Positive | None = None
    """The most pixels of all pictures of a request; each of a JPEG's scans after the tenth counts as a tenth
    more. The default is 100,000,000, or max_pixels if that is more."""

    @property
    def total_pixels(self) -> int:
        """Return the most pixels of all pictures of one request, as `Picture.cost` counts them."""
        return self.max_total_pixels or max(100_000_000, self.max_pixels)

    def about(self) -> dict[str, Any]:
        """Return what callers may send, for a handler's `about`."""
        return {
            "accepts": ["image/jpeg", "image/png", "image/webp"],
            "limits": {**asdict(self), "max_total_pixels": self.total_pixels},
        }
