"""Find the modules of handlers/ that an archive carries: those that its handler imports, recursively."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path, PurePosixPath

from ..handler_code import handlers

_ALWAYS = ("base", "runtimes", "worker")


def handlers_folder() -> Path:
    """Return handlers/ of the checkout, or of the installed package."""
    return Path(str(handlers("base").__file__)).resolve().parent


def needed_handlers(names: Iterable[str]) -> dict[str, Path]:
    """Return the files of handlers/ that the modules `names` need, by their relative path, in that order.

    A package is carried as a whole, with its data.
    """
    folder = handlers_folder()
    found: dict[str, Path] = {"__init__.py": folder / "__init__.py"}
    to_visit = [*names]
    seen: set[str] = set()
    while to_visit:
        name = to_visit.pop()
        if name in seen:
            continue
        seen.add(name)
        for path in _files_of(folder, name):
            found[path.relative_to(folder).as_posix()] = path
            if path.suffix == ".py":
                to_visit += _siblings(path, folder)
    return dict(sorted(found.items()))


def needed_by_task(name: str) -> dict[str, Path]:
    """Return the files that one of torchmar's own handlers needs; see `needed_handlers`."""
    return needed_handlers([name, *_ALWAYS])


def needed_by_file(file: Path) -> dict[str, Path]:
    """Return the files that a handler beside model.yaml needs; see `needed_handlers`."""
    return needed_handlers([*names_of_archive(file), *_ALWAYS])


def _files_of(folder: Path, name: str) -> Iterator[Path]:
    module = folder / f"{name}.py"
    if module.is_file():
        yield module
    package = folder / name
    if (package / "__init__.py").is_file():
        yield from sorted(
            path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts
        )


def _siblings(path: Path, folder: Path) -> list[str]:
    """Return the modules and packages of handlers/ that one of its files imports, by their first name."""
    inside = PurePosixPath(path.relative_to(folder).as_posix()).parent.parts
    return _imported_relatively(path.read_bytes(), len(inside) + 1)


@cache
def _imported_relatively(source: bytes, level: int) -> list[str]:
    """The first names that `from ... import` brings from so many packages above; each build asks for them."""
    nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom))
    return [name for node in nodes if node.level == level for name in _first_names(node)]


def names_of_archive(file: Path) -> list[str]:
    """Return the modules of the package `handlers` that a user's file imports; [] if it is no Python."""
    try:
        return list(_imported_by(ast.parse(file.read_bytes())))
    except (SyntaxError, ValueError, RecursionError):  # a worker will report it
        return []


def _imported_by(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            first, _, rest = node.module.partition(".")
            if first == "handlers":
                yield from [rest.partition(".")[0]] if rest else [name.name for name in node.names]
        elif isinstance(node, ast.Import):
            for name in node.names:
                if name.name.startswith("handlers."):
                    yield name.name.split(".")[1]


def _first_names(node: ast.ImportFrom) -> list[str]:
    return [node.module.partition(".")[0]] if node.module else [name.name for name in node.names]
