"""The code of handlers/, which travels in archives, for the rooms that must do what a worker will do."""

from __future__ import annotations

import importlib
from types import ModuleType


def handlers(module: str) -> ModuleType:
    """A module of handlers/, of the checkout or of the installed package.

    Its location depends on how torchmar was installed, so type checkers and import rules cannot follow it.
    """
    return importlib.import_module(f"torchmar.handlers.{module}")
