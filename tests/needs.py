"""Skips tests that need a package which is not installed, without importing it for all the others."""

from __future__ import annotations

from importlib.util import find_spec

import pytest


def needs(module: str, install: str = "") -> pytest.MarkDecorator:
    """Skips what needs a module; `install` is the package's name where it differs."""
    return pytest.mark.skipif(find_spec(module) is None, reason=f"pip install {install or module}")
