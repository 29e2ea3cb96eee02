"""Defines `torchmar history`, which draws the archives of a model by descent, with their releases."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from rich.tree import Tree

from ..errors import ArchiveError, ReleaseError, ServerError, TorchmarError
from ..files import why_no_file
from ..names import listed
from ._command import Shown
from ._options import Directory, Name
from ._output import as_torchmars, escape, out, picked, print_lines
from ._under_way import progress

if TYPE_CHECKING:
    from ..history import ModelHistory, Version

_UNWRAPPED = 10_000  # columns


def history(
    name: Name,
    store: Annotated[Path | None, "The model store; by default that of the server in --dir."] = None,
    directory: Directory = Path(),
    journal: Annotated[
        list[Path] | None,
        "Folder of the journals, several times for several; by default releases/ in --dir. That of --hosts "
        "lies beside its file.",
    ] = None,
    report: Annotated[Path | None, "Write a page (.html)."] = None,
) -> Shown:
    """Draw the archives of a model as a tree: what each was built from, how good it is, what became of it.

    An archive stands below its parent, which its lineage names (`torchmar archive --parent`). When a version
    was released, rolled back or retired, and which one is the default now, is what the journals say: no
    server is asked. Archives that cannot be read are listed with the reason.

    Example: torchmar history digits --report digits.html
    """
    from .. import history as lib

    if report is not None and (why := why_no_file(report)):
        raise ArchiveError(f"--report {report}: cannot be written: {why}")
    with progress(name) as step:
        journals = journal or [directory / "releases"]
        found = lib.model_history(name, store or _store_of(directory), journals, progress=step)
    errors = _problems(found)
    if report is not None:
        try:
            lib.write_page(report, found)
        except OSError as failed:  # still show what was found
            errors.append(as_torchmars(failed))
            report = None
    error = ReleaseError("\n".join(map(str, errors))) if errors else None
    return Shown(_facts(found, report), partial(_print, found, report), error=error)


def _store_of(directory: Path) -> Path:
    """Return the model store of the server that runs in a folder, or of one that would be started there."""
    from ..server import config_or_defaults, find_running

    try:
        running = find_running(directory)
    except ServerError:  # without psutil nothing can run here
        running = None
    if running is not None and running.model_store is not None:
        return running.model_store
    return config_or_defaults(directory / "config.properties").store(directory)


def _problems(found: ModelHistory) -> list[TorchmarError]:
    """Return what keeps the history from being whole."""
    problems: list[TorchmarError] = [ReleaseError(text) for text in found.unread]
    if not found.versions:
        there = listed(found.others, "this store has ") or "this store has none"
        what = f"{found.name}: give the name of a model that has an archive in {found.store}: {there}"
        problems.append(ArchiveError(what))
    return problems


def _facts(found: ModelHistory, report: Path | None) -> dict[str, Any]:
    return {
        **picked(found, "name", "store", "defaults"),
        "versions": [_version_facts(one) for one in found.versions],
        **picked(found, "broken", "unread"),
        "report": report,
    }


def _version_facts(one: Version) -> dict[str, Any]:
    archive = one.archive
    about = ("path", "size", "sha256", "lineage", "price")
    return {
        **picked(one, "name", "version", "depth"),
        "parent": None if one.parent is None else asdict(one.parent),
        "archive": None if archive is None else picked(archive, *about),
        **picked(one, "events", "default_on", "note"),
    }


def _print(found: ModelHistory, report: Path | None) -> None:
    if found.versions:  # a terminal wraps what is below a branch; elsewhere lines are as long as they are
        console = out if out.is_terminal else Console(file=out.file, highlight=False, width=_UNWRAPPED)
        console.print(_tree(found), soft_wrap=False)
    if found.broken:
        out.print("\n[bold]Broken archives[/bold]")
        print_lines(*(f"{one.path.name}: {one.reason}" for one in found.broken))
    if report is not None:
        out.print(f"report: {escape(report)}")


def _tree(found: ModelHistory) -> Tree:
    """Return the tree that rich draws; beyond some depth it is not indented any more."""
    from .. import history as lib

    whole = Tree(f"[bold]{escape(found.name)}[/bold]")
    above = [whole]  # the branch at each depth
    for one in found.versions:
        depth = min(one.depth, lib.DEEPEST)
        is_default = lib.default(one, found)
        words = [
            f"[bold]{escape(lib.title(one, found))}[/bold]",
            f"[green]{escape(is_default)}[/green]" if is_default else "",
            escape("".join(lib.measured(one)[:1])),
        ]
        lines = ["  ".join(filter(None, words))]
        lines += [f"[dim]{escape(word)}[/dim]  {escape(line)}" for word, line in lib.facts(one)]
        del above[depth + 1 :]
        above.append(above[depth].add("\n".join(lines)))
    return whole
