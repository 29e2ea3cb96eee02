"""Defines the commands that show what a server serves: status, versions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import ReleaseError
from ..names import LONGEST, shown
from ._command import Shown
from ._options import Name
from ._output import escape, out, print_table
from ._servers import FleetOptions, ServerOptions

if TYPE_CHECKING:
    from ..client import ModelVersion
    from ..manage import FleetState, ServerState


def status(servers: FleetOptions) -> Shown:
    """Show whether the server responds, every version that it serves, and the releases of the journals."""
    from .. import manage

    is_file = servers.hosts is not None
    with servers.fleet(go_without=True) as fleet:
        state = manage.fleet_state(fleet, go_without=is_file)
    facts = [{"host": name, **_state_facts(one)} for name, one in state.servers.items()]
    what = {"hosts": facts, "no_answer": state.no_answer} if is_file else facts[0]
    problems = [state.unread] if state.unread else []
    if state.no_answer:
        problems.append("\n  ".join(["these servers do not respond:", *state.no_answer]))
    return Shown(
        {**what, "releases": state.released},
        partial(_show_status, state, with_names=is_file),
        error=ReleaseError("\n".join(problems)) if problems else None,
    )


def _show_status(state: FleetState, *, with_names: bool) -> None:
    for name, server in state.servers.items():
        if with_names:
            out.print(f"[bold]{escape(name)}[/bold]")
        show_state(server, is_known=bool(state.released))
    if state.released:
        columns = ("released", "last", "outcome", "when", "to do")
        rows = [(one.model, one.what, one.outcome, one.when, one.to_do) for one in state.released]
        print_table("", columns, rows)


def show_state(state: ServerState, *, is_known: bool) -> None:
    """Print the state of a server; `is_known` if the journals know models, too."""
    for name, address in state.addresses.items():
        out.print(f"{name:<11}{address}")
    names = escape(", ".join(map(str, state.dead)))
    dead = f"[red] by /ping, but without a READY worker: {names}[/red]" if names else ""
    out.print(f"{'health':<11}{'Healthy' if state.healthy else '[red]Unhealthy[/red]'}{dead}\n")
    if state.versions or not is_known:
        print_versions(state.versions)
    else:
        out.print("no model is registered; the journals say:")
    for why in state.unmanageable.values():
        out.print(escape(why), style="yellow")
    out.print()


def _state_facts(state: ServerState) -> dict[str, Any]:
    models = [version_facts(*row) for row in state.versions]
    facts = {"healthy": state.healthy, **state.addresses, "models": models}
    return {**facts, "unmanageable": state.unmanageable} if state.unmanageable else facts


def versions(name: Name, server: ServerOptions) -> Shown:
    """Show the versions of one model."""
    from ..client import remedied
    from ..manage import versions_of

    with server.connect() as connected, remedied({"": connected}, name):
        rows = versions_of(connected, name)
    return Shown([version_facts(*row) for row in rows], partial(print_versions, rows))


def version_facts(version: ModelVersion, is_default: bool) -> dict[str, Any]:
    """Return a version for JSON."""
    facts = {key: value for key, value in asdict(version).items() if key != "raw"}
    return {**facts, "default": is_default, "ready_workers": version.ready_workers}


def print_versions(rows: Sequence[tuple[ModelVersion, bool]]) -> None:
    """Print a line for each version."""
    from ..client import NOTHING_REGISTERED

    columns = ["model", "version", "default", "ready>", "workers>", "batch>", "queued>", "archive"]
    cells = [
        (
            shown(version.name, LONGEST),
            shown(version.version, LONGEST),
            "default" if is_default else "",
            version.ready_workers,
            len(version.workers),
            version.batch_size,
            version.queue.pending_requests,
            shown(version.archive, LONGEST),
        )
        for version, is_default in rows
    ]
    if cells:
        print_table("", columns, cells)
    else:
        out.print(NOTHING_REGISTERED)
