"""Commands that change what is served, journaled: release, rollback, resume, reconcile, retire."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..names import shown
from ..release import Options
from ._choices import DrainTimeoutOption, LongestOption, NginxReloadOption
from ._events import EventPrinter, OutputOptions, plan_facts, print_plans, tell, typed
from ._fleets import FleetOptions
from ._options import INCONCLUSIVE, with_options
from ._output import end_with, err, error_facts, escape, out, print_json
from .models import Name, Version, required

if TYPE_CHECKING:
    from ..release import Reconciled

_PANEL = "Releases"


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (release, rollback, resume, reconcile, retire):
        app.command(rich_help_panel=_PANEL)(with_options(command))


def release(
    archive: Annotated[Path, typer.Argument(help="A .mar, or a folder of that form.")],
    options: Options,
    servers: FleetOptions,
    output: OutputOptions,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
) -> None:
    """Put an archive into service: checked, warmed up, judged against what is served now, then the default.

    Whatever fails before the switch leaves the old version as it was; what fails after it is put back. Where
    workers do not start and no server says why, the archive's code is run here to find it, unless --no-load.
    Exit code 1 where it failed, 3 where the gate could not tell.
    """
    from ..mar import verify
    from ..release import plan_release, require_no_refusals, why_untold, write_report
    from ..release import release as release_archive

    printer = EventPrinter(output)
    again = typed("release", str(archive)) + servers.as_typed
    with printer.at_work(again), printer.refusals(), servers.fleet(printer) as fleet:
        verified = verify(archive)
        if dry_run:
            plans = plan_release(fleet, verified, options)
            print_json([plan_facts(plan) for plan in plans]) if output.json else print_plans(plans)
            printer.has_told = True
            require_no_refusals(plans)
            if untold := why_untold(plans):
                err.print(f"[bold red]error:[/bold red] {escape(untold)}")
                raise typer.Exit(INCONCLUSIVE)
            return
        result = release_archive(fleet, verified, options, printer.plans_made)
        printer.has_told = True
        page = write_report(fleet, result)
    tell(result, printer, page, servers.as_typed)


def resume(
    name: Name,
    servers: FleetOptions,
    output: OutputOptions,
    nginx_reload: NginxReloadOption = None,
) -> None:
    """Go on with a release that was interrupted, or finish undoing it."""
    from ..release import resume as resume_release
    from ..release import write_report

    printer = EventPrinter(output)
    again = typed("resume", name, nginx_reload=nginx_reload) + servers.as_typed
    with printer.at_work(again), printer.refusals(), servers.fleet(printer, go_without=True) as fleet:
        result = resume_release(replace(fleet, nginx_reload=nginx_reload), name)
        printer.has_told = True
        page = write_report(fleet, result)
    tell(result, printer, page, servers.as_typed)


def rollback(
    name: Name,
    servers: FleetOptions,
    output: OutputOptions,
    to: Annotated[str | None, typer.Option(help="Instead of the default version before this one.")] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Undo a release without what cannot be had: a server or nginx that is gone."
        ),
    ] = False,
    nginx_reload: NginxReloadOption = None,
) -> None:
    """Make the version before this one the default again: one call, however broken the new one is.

    A release that was interrupted is undone instead: what it had registered and copied is taken away.
    """
    from ..release import rollback as roll_back

    printer = EventPrinter(output)
    again = typed("rollback", name, to=to, force=force, nginx_reload=nginx_reload) + servers.as_typed
    with printer.at_work(again), servers.fleet(printer, go_without=True) as fleet:
        done = roll_back(replace(fleet, nginx_reload=nginx_reload), name, to, force=force)
    printer.print_last(asdict(done))
    if printer.to_people:
        if done.note:
            err.print(escape(done.note))
        out.print(
            f"{escape(name)}: {done.outcome}, the default is {escape(done.default)} ({done.seconds:.2f} s)"
        )


def reconcile(
    servers: FleetOptions,
    output: OutputOptions,
    name: Annotated[str | None, typer.Argument(help="Only this model.")] = None,
) -> None:
    """After a restart: serve again what the journal says was served, with its workers and its default."""
    from ..errors import ReleaseError, TorchmarError
    from ..release import PartlyReconciled, models
    from ..release import reconcile as bring_back

    printer = EventPrinter(output)
    again = typed("reconcile", *([] if name is None else [name])) + servers.as_typed
    with printer.at_work(again), servers.fleet(printer, go_without=True) as fleet:
        names = models(fleet.folder) if name is None else [name]
        if not names:
            raise ReleaseError(
                f"{fleet.folder.absolute()}: give --journal FOLDER: no journal is there, so nothing is known "
                "of what was served"
            )
        done: list[Reconciled] = []
        problems: list[str] = []
        for model in names:
            printer.model = shown(model)
            try:
                done += bring_back(fleet, model)
            except TorchmarError as error:  # the other models are brought back all the same
                done += error.done if isinstance(error, PartlyReconciled) else ()
                problems.append(str(error))
    facts = [asdict(one) for one in done]
    if printer.to_people:
        _tell_reconciled(done)
    if not problems:
        printer.print_last(facts)
        return
    failure = ReleaseError("\n".join(problems))
    if not output.json:
        raise failure
    printer.print_last({"done": facts, **error_facts(failure)})
    end_with(failure)


def _tell_reconciled(done: Sequence[Reconciled]) -> None:
    for one in done:
        acts = "; ".join(one.acts) or "as it should be"
        model = escape(shown(one.model))
        default = "none is to be served" if one.default is None else f"default {one.default}"
        out.print(f"{escape(one.host)}  {model}  {escape(default)}: {escape(acts)}")
        if one.others:
            out.print(f"  not in the journal, left alone: {escape(', '.join(map(shown, one.others)))}")
        if one.unfinished is not None:
            out.print(
                f"  a release was not finished: `torchmar resume {model}` or `torchmar rollback {model}`"
            )


def retire(
    name: Name,
    servers: FleetOptions,
    output: OutputOptions,
    version: Version = None,
    longest: LongestOption = None,
    pinned_unseen: Annotated[
        bool, typer.Option("--pinned-unseen", help="Even if it cannot be seen who asks for it by its number.")
    ] = False,
    drain_timeout: DrainTimeoutOption = 120.0,
    keep: Annotated[
        int | None, typer.Option(help="Remove archives from the store, but for so many versions.", min=1)
    ] = None,
) -> None:
    """Take a version out of service when its last request has been answered."""
    from ..release import UNSEEN
    from ..release import retire as retire_version

    printer = EventPrinter(output)
    options = {"longest": longest, "pinned_unseen": pinned_unseen, "keep": keep}
    again = typed("retire", name, version or "VERSION", **options) + servers.as_typed
    with printer.at_work(again), servers.fleet(printer) as fleet:
        number = required(version, {host.name: host.server for host in fleet.hosts}, name)
        told = Options(longest=longest, drain_timeout=drain_timeout, pinned_unseen=pinned_unseen)
        done = retire_version(fleet, name, number, told, keep=keep)
    printer.print_last([asdict(one) for one in done])
    if not printer.to_people:
        return
    for one in done:
        removed = f"; removed {', '.join(one.removed)}" if one.removed else ""
        gone = (
            "; it was registered by a URL, so TorchServe removed its archive" if one.archive_removed else ""
        )
        unseen = "" if one.pinned_seen else f"; {UNSEEN}"
        what = f"{one.host}: {name} {number} retired ({one.seconds:.1f} s){removed}{gone}{unseen}"
        out.print(escape(what))
