"""What the workers of an archive import besides what serving needs."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from ..guests import PACKAGE
from ..spec import ModelSource

_SERVING = {"handlers", "numpy", "onnxruntime", "pil", "ts", "torch", "yaml", PACKAGE}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def requirements_of(source: ModelSource, handler: Any) -> list[str]:
    """What the workers of an archive import besides what serving needs, as pip requirements.

    model.yaml's line for a package is taken before the handler's. Where a module is exported and no code of
    the folder is packed, what only this code imports is left out.
    """
    own = {_normal(line): line for line in handler.requirements}
    listed = source.spec.requirements
    if source.spec.sources and not source.has_code:
        listed = [line for line in listed if _normal(line) in own]
    named = {_normal(line) for line in listed}
    return [*(line for name, line in own.items() if name not in named), *listed]


def unlisted(files: Iterable[Path], requirements: Iterable[str]) -> list[str]:
    """The packages that code imports which neither serving brings nor `requirements` lists."""
    known = {_normal(line) for line in requirements}
    distributions = packages_distributions()
    found = set()
    for file in files:
        for name in _imported(file) - {*sys.stdlib_module_names}:
            names = {_normal(each) for each in (name, *distributions.get(name, ()))}
            if not names & (known | _SERVING) and not _beside(file, name):
                found.add(name)
    return sorted(found)


def _normal(line: str) -> str:
    """The package that a requirement names, as PyPI compares names (PEP 503); "" for one without a name."""
    found = _NAME.match(line)
    return "" if found is None else re.sub(r"[-_.]+", "-", found[0]).lower()


def _imported(file: Path) -> set[str]:
    """The packages that a file imports by their full names, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def _beside(file: Path, name: str) -> bool:
    return (file.parent / name).is_dir() or (file.parent / f"{name}.py").is_file()
