"""What one request may cost before anything is inferred."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The `limits` of the handler section, each with its default."""

    max_bytes: int = 6_000_000  # of one decoded picture file; TorchServe's max_request_size is 6,553,500
    max_pixels: int = 50_000_000  # width times height: a small file can be a very large picture
    max_instances: int = 16  # in one request
    max_total_pixels: int = 0  # of a request; 0: 100,000,000, or max_pixels where that is more

    @property
    def total_pixels(self) -> int:
        """Pixels that all pictures of one request may have together, as `Picture.cost` counts them."""
        return self.max_total_pixels or max(100_000_000, self.max_pixels)
