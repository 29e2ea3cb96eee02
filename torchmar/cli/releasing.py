"""Defines the commands of journaled changes: release, rollback, resume, reconcile, retire."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import release as lib
from ..errors import ReleaseError, ReleaseInconclusive, TorchmarError
from ..names import shown
from ..release import Options
from ._command import INCONCLUSIVE, Shown
from ._events import EventPrinter, plan_facts, print_plans
from ._options import ChosenVersion, DrainTimeoutOption, LongestOption, Name, NginxReloadOption, Option
from ._output import INTERRUPTED, escape, out, picked, print_lines
from ._servers import FleetOptions, servers_of

if TYPE_CHECKING:
    from ..release import Reconciled, Result, Retired


def release(
    archive: Annotated[Path, "A .mar, or a folder with the same files."],
    options: Options,
    servers: FleetOptions,
    printer: EventPrinter,
    dry_run: Annotated[bool, "Only print the plan."] = False,
) -> Shown:
    """Check an archive, warm it up, compare it with the served version, and make it the default.

    A failure before the switch leaves the old version as it was; a failure after it brings the old version
    back. If workers do not start and no server gives the reason, the archive's code runs here to find it,
    unless --no-load. Exit code 1 if the release failed, 3 if the gate was inconclusive.
    """
    from ..mar import verify

    with servers.fleet(printer) as fleet:
        verified = verify(archive)
        if not dry_run:
            result = lib.release(fleet, verified, options, printer.plans_made)
            return shown_result(result, printer, lib.write_report(fleet, result), servers.as_typed)
        plans = lib.plan_release(fleet, verified, options)
    error = lib.why_not(plans)
    code = INCONCLUSIVE if isinstance(error, ReleaseInconclusive) else 0
    facts = [plan_facts(plan) for plan in plans]
    return Shown(facts, partial(print_plans, plans), error=error, code=code)


def resume(
    name: Name,
    servers: FleetOptions,
    printer: EventPrinter,
    nginx_reload: NginxReloadOption = None,
) -> Shown:
    """Go on with an interrupted release, or finish undoing it."""
    with servers.fleet(printer, go_without=True) as fleet:
        result = lib.resume(replace(fleet, nginx_reload=nginx_reload), name)
        return shown_result(result, printer, lib.write_report(fleet, result), servers.as_typed)


def shown_result(result: Result, printer: EventPrinter, page: Path | None, more: str) -> Shown:
    """Return the result of a release: exit code 1 if it failed, 3 if inconclusive, 130 after Ctrl-C.

    `more` holds the options that suggested commands need, too.
    """
    befores = {plan.default for plan in result.plans} - {None, result.version}
    is_good = result.outcome in {"promoted", "nothing", "undone"}
    notes = [text for text in (result.note, result.reason) if text] if is_good else []
    return Shown(
        _facts(result, printer, page),
        partial(_show_result, result, sorted(map(str, befores)), page, more),
        notes=notes,
        error=None if is_good else _failure(result, is_served=bool(befores) or not result.plans),
        code=INTERRUPTED if isinstance(result.error, KeyboardInterrupt) else _CODES.get(result.outcome, 0),
    )


_CODES = {"inconclusive": INCONCLUSIVE, "failed": 1, "undone": 1}


def _show_result(result: Result, befores: Sequence[str], page: Path | None, more: str) -> None:
    what, seconds = escape(f"{result.model} {result.version}"), f"{result.seconds:.1f} s"
    if result.outcome == "promoted":
        out.print(f"{what} is the default ({seconds})")
        if befores:
            model = escape(result.model)
            retire = f"torchmar retire {model} {escape(', '.join(befores))}{more}"
            out.print(f"to go back: torchmar rollback {model}{more}; when sure: {retire}")
    elif result.outcome == "undone":
        out.print(f"{what}: undone ({seconds})")
    if page is not None:
        out.print(f"page: {escape(page)}", style="dim")


def _failure(result: Result, *, is_served: bool) -> TorchmarError:
    """Return the error of a release, with the state that it leaves."""
    state = ""
    if not result.id:
        state = "\nNothing was changed."
    elif result.is_put_back:
        state = f"\n{'The old version goes on; everything' if is_served else 'Everything'} was put back."
    kind = type(result.error) if isinstance(result.error, ReleaseError) else ReleaseError
    return kind(f"{result.reason}{state}")


def _facts(result: Result, printer: EventPrinter, page: Path | None) -> dict[str, Any]:
    return {
        **picked(result, "id", "model", "version", "outcome", "reason", "note"),
        "seconds": round(result.seconds, 3),
        # A release that went through has nothing to put back.
        "put_back": None if result.outcome in {"promoted", "nothing"} else result.is_put_back,
        "page": page,
        "plans": [plan_facts(plan) for plan in result.plans],
        "steps": printer.steps(),
        "judgements": {
            host: {name: judged.findings for name, judged in found.items()}
            for host, found in result.judgements.items()
        },
    }


def rollback(
    name: Name,
    servers: FleetOptions,
    printer: EventPrinter,
    to: Annotated[str | None, "The version to go back to; by default the previous default."] = None,
    force: Annotated[bool, "Undo a release even if a server or nginx is gone."] = False,
    nginx_reload: NginxReloadOption = None,
) -> Shown:
    """Make the previous version the default again: one call, even if the new version is broken.

    An interrupted release is undone instead: its registered versions and copied archives are removed.
    """
    with servers.fleet(printer, go_without=True) as fleet:
        done = lib.rollback(replace(fleet, nginx_reload=nginx_reload), name, to, force=force)
    text = f"{name}: {done.outcome}, the default is {done.default} ({done.seconds:.2f} s)"
    return Shown(done, partial(print_lines, text), [done.note] if done.note else [])


def reconcile(
    servers: FleetOptions,
    printer: EventPrinter,
    name: Annotated[str | None, typer.Argument(help="Only this model.")] = None,
) -> Shown:
    """Serve what the journal records again after a restart, with its workers and its default."""
    from .. import manage

    def begin(model: str) -> None:
        printer.model = shown(model)

    with servers.fleet(printer, go_without=True) as fleet:
        try:
            done = manage.reconcile(fleet, name, on_model=begin)
        except lib.PartlyReconciled as error:
            show = partial(_show_reconciled, error.done)
            return Shown({"done": error.done}, show, error=ReleaseError(str(error)))
    return Shown(done, partial(_show_reconciled, done))


def _show_reconciled(done: Sequence[Reconciled]) -> None:
    for one in done:
        acts = "; ".join(one.acts) or "as it should be"
        model = escape(shown(one.model))
        default = "no version should be served" if one.default is None else f"default {one.default}"
        out.print(f"{escape(one.host)}  {model}  {escape(default)}: {escape(acts)}")
        if one.others:
            out.print(f"  not in the journal, left alone: {escape(', '.join(map(shown, one.others)))}")
        if one.unfinished is not None:
            out.print(f"  a release is unfinished: `torchmar resume {model}` or `torchmar rollback {model}`")


def retire(
    name: Name,
    servers: FleetOptions,
    printer: EventPrinter,
    version: ChosenVersion = None,
    longest: LongestOption = None,
    pinned_unseen: Annotated[bool, "Retire even if requests that name the version cannot be seen."] = False,
    drain_timeout: DrainTimeoutOption = 120.0,
    keep: Annotated[
        int | None, Option("Remove archives from the store, except those of the last N versions.", min=1)
    ] = None,
) -> Shown:
    """Take a version out of service after its last answer."""
    from ..client import chosen_version

    with servers.fleet(printer) as fleet:
        number = chosen_version(servers_of(fleet), name, version)
        options = Options(longest=longest, drain_timeout=drain_timeout, pinned_unseen=pinned_unseen)
        done = lib.retire(fleet, name, number, options, keep=keep)
    return Shown(done, partial(_show_retired, f"{name} {number}", done))


def _show_retired(named: str, done: Sequence[Retired]) -> None:
    from ..workers import UNSEEN

    for one in done:
        removed = f"; removed {', '.join(one.removed)}" if one.removed else ""
        gone = (
            "; it was registered by a URL, so TorchServe removed its archive" if one.archive_removed else ""
        )
        unseen = "" if one.pinned_seen else f"; {UNSEEN}"
        what = f"{one.host}: {named} retired ({one.seconds:.1f} s){removed}{gone}{unseen}"
        out.print(escape(what))
