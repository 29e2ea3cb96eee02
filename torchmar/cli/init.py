"""Defines `torchmar init`, which makes a model folder."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ..release._options import Option
from ._command import Shown, add
from ._output import escape, out


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    add(app, "Start here", init)


def init(
    name: Annotated[str, "The model's name."],
    handler: Annotated[
        str, "One of torchmar's handlers, or the name for a file of your own, such as mine.py."
    ] = "image_classifier",
    directory: Annotated[
        Path | None, Option("The folder to make; by default models/NAME.", typed="--dir")
    ] = None,
) -> Shown:
    """Make a model folder with a small module, a commented model.yaml and a golden request.

    The folder builds as it is; a handler without a template names what to fill in first. Nothing is
    overwritten.

    Example: torchmar init adder --handler adder.py
    """
    from ..scaffold import make_folder

    folder = Path("models") / name if directory is None else directory
    missing = make_folder(name, handler, folder)
    facts = {"folder": folder, "files": _listed(folder), "missing": missing}
    return Shown(facts, partial(_print_made, folder, missing))


def _print_made(folder: Path, missing: Sequence[str]) -> None:
    out.print(f"[bold]{escape(folder)}[/bold]  " + escape(", ".join(_listed(folder))))
    if missing:
        out.print(escape(f"The folder does not build yet: fill in {', '.join(missing)}. Then:"))
    else:
        out.print("The folder builds as it is; put your own module into load.py. Next:")
    out.print(escape(f"  torchmar archive {shlex.quote(str(folder))}"))


def _listed(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
