"""List what an archive's workers import beyond what serving needs."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from ..handler_code import PACKAGE
from ..python_files import imported
from ..spec import ModelSource

_SERVING = {"handlers", "numpy", "onnxruntime", "pil", "ts", "torch", "yaml", PACKAGE}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def requirements_of(source: ModelSource, handler: Any) -> list[str]:
    """Return the pip requirements of an archive's workers beyond what serving needs.

    model.yaml's line for a package wins over the handler's. If a module is exported and no code of the folder
    is packed, requirements of that code alone are left out.
    """
    own = {_normal(line): line for line in handler.requirements}
    listed = source.spec.requirements
    if source.spec.sources and not source.has_code:
        listed = [line for line in listed if _normal(line) in own]
    named = {_normal(line) for line in listed}
    return [*(line for name, line in own.items() if name not in named), *listed]


def unlisted(files: Iterable[Path], requirements: Iterable[str]) -> list[str]:
    """Return the packages that code imports, but neither serving brings nor `requirements` lists."""
    known = {_normal(line) for line in requirements}
    distributions = packages_distributions()
    found = set()
    for file in files:
        packages = {module.partition(".")[0] for module in imported(file)}
        for name in packages - {*sys.stdlib_module_names}:
            names = {_normal(each) for each in (name, *distributions.get(name, ()))}
            if not names & (known | _SERVING) and not _beside(file, name):
                found.add(name)
    return sorted(found)


def _normal(line: str) -> str:
    """Return a requirement's package in PyPI's normal form (PEP 503); "" without a name."""
    found = _NAME.match(line)
    return "" if found is None else re.sub(r"[-_.]+", "-", found[0]).lower()


def _beside(file: Path, name: str) -> bool:
    return (file.parent / name).is_dir() or (file.parent / f"{name}.py").is_file()
