"""Find out what a Python file defines and what its classes derive from, without running it."""

from __future__ import annotations

import ast
import symtable
from pathlib import Path


def class_names(file: Path) -> list[str]:
    """Return the classes that a file defines anywhere; [] if it is no Python."""
    return [*_classes(_parsed(file))]


def names(file: Path) -> list[str]:
    """Return what a file defines or imports at its top level; [] if unknown."""
    try:
        table = symtable.symtable(file.read_bytes().decode(), file.name, "exec")
    except (OSError, SyntaxError, ValueError, RecursionError):  # running it will report this
        return []
    if "*" in _imports(_parsed(file)):
        return []
    return sorted(one.get_name() for one in table.get_symbols() if one.is_assigned() or one.is_imported())


def imported(file: Path) -> set[str]:
    """Return the full names of the modules that a file imports anywhere.

    Raises what `ast.parse` and reading raise.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


def stands_on(package: str, file: Path, wanted: str | None = None, seen: tuple[Path, ...] = ()) -> bool:
    """Return whether a class of a file, or only the class `wanted`, derives from a class of a package.

    Follows imports into neighbouring files. A file that imports the package and defines nothing yet counts,
    too.
    """
    tree = _parsed(file)
    classes, imports = _classes(tree), _imports(tree)
    if not classes and not seen and not any(isinstance(node, ast.FunctionDef) for node in tree.body):
        return any(module.partition(".")[0] == package for module, _ in imports.values())
    to_visit = [wanted] if wanted in classes else [*classes]
    for name in to_visit:
        for base in classes[name].bases:
            root = _root(base)
            if root in classes:
                to_visit += [root] if root not in to_visit else []
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
    """Return the name that an expression begins with: `base` of `base.BatchHandler[Params]`."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _imports(tree: ast.Module) -> dict[str, tuple[str, str]]:
    """Return the module that each imported name comes from, and its name there; "" for a module itself."""
    found: dict[str, tuple[str, str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {one.asname or one.name.partition(".")[0]: (one.name, "") for one in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found |= {one.asname or one.name: (module, one.name) for one in node.names}
    return found
