"""What a Python file defines, and what its classes are derived from, told without running it."""

from __future__ import annotations

import ast
import symtable
from pathlib import Path


def class_names(file: Path) -> list[str]:
    """The classes that a file defines, wherever in it; [] where it is no Python."""
    return [*_classes(_parsed(file))]


def names(file: Path) -> list[str]:
    """What a file defines or imports at its top level; [] where that cannot be told."""
    try:
        table = symtable.symtable(file.read_bytes().decode(), file.name, "exec")
    except (OSError, SyntaxError, ValueError, RecursionError):  # whoever runs it will tell
        return []
    if "*" in _imports(_parsed(file)):
        return []
    return sorted(one.get_name() for one in table.get_symbols() if one.is_assigned() or one.is_imported())


def imported(file: Path) -> set[str]:
    """The modules that a file imports by their full names, wherever in it.

    Raises what `ast.parse` and reading do.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


def stands_on(package: str, file: Path, wanted: str | None = None, seen: tuple[Path, ...] = ()) -> bool:
    """Whether a class of a file, or the class `wanted` alone, is derived from one that a package has.

    It is followed into the files beside it. A file that imports the package and defines nothing yet does so,
    too.
    """
    tree = _parsed(file)
    classes, imports = _classes(tree), _imports(tree)
    if not classes and not seen and not any(isinstance(node, ast.FunctionDef) for node in tree.body):
        return any(module.partition(".")[0] == package for module, _ in imports.values())
    open_ = [wanted] if wanted in classes else [*classes]
    for name in open_:
        for base in classes[name].bases:
            root = _root(base)
            if root in classes:
                open_ += [root] if root not in open_ else []
                continue
            module, named = imports.get(root) or imports.get("*") or ("", "")
            if module.partition(".")[0] == package:
                return True
            beside = file.parent / f"{(module.strip('.') or named).replace('.', '/')}.py"
            if beside not in (file, *seen) and stands_on(package, beside, named, (*seen, file)):
                return True
    return False


def _parsed(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return ast.Module([], [])


def _classes(tree: ast.Module) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def _root(node: ast.expr) -> str:
    """The name that an expression begins with: `base` of `base.BatchHandler[Params]`."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _imports(tree: ast.Module) -> dict[str, tuple[str, str]]:
    """The module that each imported name is from, and its name there; "" for a module itself."""
    found: dict[str, tuple[str, str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {one.asname or one.name.partition(".")[0]: (one.name, "") for one in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found |= {one.asname or one.name: (module, one.name) for one in node.names}
    return found
