"""Find what would go wrong with TorchServe here, before it starts.

Each finding says what was found, where, and what to do. TorchServe itself notices most of these only in a
worker, whose death it hides behind a healthy /ping.
"""

from ._examine import examine
from ._findings import ERROR, OK, WARNING, Finding
from ._machine import unmet_torch

__all__ = ["ERROR", "OK", "WARNING", "Finding", "examine", "unmet_torch"]
