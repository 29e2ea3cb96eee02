"""Defines the commands that ask a server: status, versions, predict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import drawing
from .. import release as lib
from ..errors import (
    BadAnswer,
    ClientError,
    IsDefaultVersion,
    ModelNotFound,
    ReleaseError,
    TorchmarError,
    UnmanageableName,
)
from ..names import LONGEST, listed, shown
from ._answers import facts_of, parsed, print_answer
from ._command import Shown, add
from ._fleets import FleetOptions
from ._options import ServerOptions
from ._output import escape, out, print_table
from ._parts import print_parts
from ._requests import Sent, requests_of, require_targets
from ._requests import save as save_answer

if TYPE_CHECKING:
    from ..client import ModelVersion, Server

_NOTHING = "no model is registered; `torchmar register NAME-VERSION.mar` registers one"
Name = Annotated[str, "The model's name."]
Version = Annotated[
    str | None, typer.Argument(help="The model's version; without it the error lists the served ones.")
]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    add(app, "A running server", status, versions, predict)


def status(servers: FleetOptions) -> Shown:
    """Show whether the server responds, every version that it serves, and the releases of the journals."""
    with servers.fleet(go_without=True) as fleet:
        missing = [f"{name}: {why}" for name, why in fleet.missing.items()]
        found = {}
        for host in fleet.hosts:
            try:
                found[host.name] = _state(host.server)
            except ClientError as error:
                if servers.hosts is None:
                    raise
                missing.append(f"{host.name}: {error}")
        folder = fleet.folder
    unread = []
    defaults = {
        name: {one.name: lib.ServedVersion.of(one) for one, is_default in state.rows if is_default}
        for name, state in found.items()
    }
    try:
        released = lib.status(folder, defaults)
    except ReleaseError as error:  # still show what is served
        released, unread = [], [str(error)]
    if missing:
        unread.append("\n  ".join(["these servers do not respond:", *missing]))
    facts = [{"host": name, **state.facts()} for name, state in found.items()]
    what = facts[0] if servers.hosts is None else {"hosts": facts, "no_answer": missing}

    def show() -> None:
        for name, state in found.items():
            if servers.hosts is not None:
                out.print(f"[bold]{escape(name)}[/bold]")
            state.show(known=bool(released))
        if released:
            columns = ("released", "last", "outcome", "when", "to do")
            rows = [(one.model, one.what, one.outcome, one.when, one.to_do) for one in released]
            print_table("", columns, rows)

    failure = ReleaseError("\n".join(unread)) if unread else None
    return Shown({**what, "releases": released}, show, error=failure)


@dataclass(frozen=True)
class _State:
    """Holds the state of one server."""

    healthy: bool
    addresses: dict[str, str]
    rows: list[tuple[ModelVersion, bool]]
    unmanageable: dict[str, str]

    def facts(self) -> dict[str, Any]:
        models = [version_facts(*row) for row in self.rows]
        facts = {"healthy": self.healthy, **self.addresses, "models": models}
        return {**facts, "unmanageable": self.unmanageable} if self.unmanageable else facts

    def show(self, *, known: bool) -> None:
        for name, address in self.addresses.items():
            out.print(f"{name:<11}{address}")
        out.print(f"{'health':<11}{'Healthy' if self.healthy else '[red]Unhealthy[/red]'}{self._dead()}\n")
        if self.rows or not known:
            print_versions(self.rows)
        else:
            out.print("no model is registered; the journals say:")
        for why in self.unmanageable.values():
            out.print(escape(why), style="yellow")
        out.print()

    def _dead(self) -> str:
        """Return the default versions without a READY worker, which TorchServe's /ping does not notice."""
        dead = [str(one) for one, is_default in self.rows if is_default and not one.ready_workers]
        names = escape(", ".join(dead))
        return f"[red] by /ping, but without a READY worker: {names}[/red]" if dead else ""


def _state(connected: Server) -> _State:
    management = connected.management
    healthy = connected.inference.ping()
    rows: list[tuple[ModelVersion, bool]] = []
    unmanageable: dict[str, str] = {}
    for entry in management.models():
        try:
            rows += versions_of(connected, entry.name)
        except ModelNotFound:
            pass  # somebody has unregistered it since
        except UnmanageableName as error:
            unmanageable[entry.name] = str(error)
    return _State(
        healthy,
        {
            "inference": connected.inference.address,
            "management": management.address,
            "metrics": connected.metrics.address,
        },
        rows,
        unmanageable,
    )


@contextmanager
def with_remedy(servers: Mapping[str, Server], name: str) -> Iterator[None]:
    """Add a remedy to a refusal of one of the servers: what it serves, or the next command."""
    try:
        yield
    except (ModelNotFound, IsDefaultVersion) as error:
        is_default = isinstance(error, IsDefaultVersion)
        found = []
        for where, server in servers.items():
            with suppress(ClientError):  # then the refusal comes alone
                remedy = _another_default(server, name) if is_default else _what_is_served(server, name)
                found.append(f"{where}: {remedy}" if len(servers) > 1 else remedy)
        if not found:
            raise
        kind: type[BadAnswer] = type(error)
        refusal = kind("\n  ".join([*found, str(error)]), status=error.status, body=error.body)
        refusal.hint = "\n".join(found)
        raise refusal from None


def _what_is_served(server: Server, name: str) -> str:
    try:
        served = [one.version for one in server.management.versions(name)]
    except ModelNotFound:
        names = [one.name for one in server.management.models()]
        return f"give the name of a model that is served: {listed(names)}" if names else _NOTHING
    return f"give a version of {shown(name)} that is served: {listed(served)}"


def required(version: str | None, servers: Mapping[str, Server], name: str) -> str:
    """Return the version that was typed. If none was, raises ClientError with the served ones."""
    if version is not None:
        return version
    served = dict.fromkeys(_what_is_served(server, name) for server in servers.values())
    raise ClientError("; ".join(served))


def _another_default(server: Server, name: str) -> str:
    default = server.management.default_version(name)
    others = [one.version for one in server.management.versions(name) if one.version != default]
    to = listed(others, between=" or ")
    return f"make another version the default first: `torchmar set-default {shown(name)} {to}`"


def versions(name: Name, server: ServerOptions) -> Shown:
    """Show the versions of one model."""
    with server.connect() as connected, with_remedy({"": connected}, name):
        rows = versions_of(connected, name)
    return Shown([version_facts(*row) for row in rows], partial(print_versions, rows))


def versions_of(server: Server, name: str) -> list[tuple[ModelVersion, bool]]:
    """Return a model's versions, each with whether it is the default."""
    default = server.management.default_version(name)
    return [(version, version.version == default) for version in server.management.versions(name)]


def version_facts(version: ModelVersion, is_default: bool) -> dict[str, Any]:
    """Return a version for JSON."""
    facts = {key: value for key, value in asdict(version).items() if key != "raw"}
    return {**facts, "default": is_default, "ready_workers": version.ready_workers}


def print_versions(rows: Iterable[tuple[ModelVersion, bool]]) -> None:
    """Print a line for each version."""
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
        out.print(_NOTHING)


def predict(
    name: Name,
    server: ServerOptions,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Files to send, each as one request: .json as JSON, .txt as text, others as bytes."
        ),
    ] = None,
    field: Annotated[
        list[str] | None,
        typer.Option(
            "-F",
            "--field",
            help="A field of a form, instead of files: NAME=VALUE or NAME=@FILE; may be repeated.",
        ),
    ] = None,
    version: Annotated[str | None, "The model's version; by default the default version."] = None,
    stream: Annotated[bool, "Print each part of an answer as soon as it comes."] = False,
    save: Annotated[Path | None, "Write the answer's bytes to this file."] = None,
    draw: Annotated[
        Path | None,
        "Draw the answer's boxes, masks or labels on the sent picture, and write it to this file.",
    ] = None,
    *,
    json: bool,
) -> Iterator[Shown] | None:
    """Send files, or one form, to a model and show its answers.

    Rows, flat objects and numbers are printed as tables, text as text, anything else as JSON.

    Example: torchmar predict detector street.jpg --draw boxes.png
    """
    requests = requests_of(files or [], field or [])
    require_targets(requests, save=save, draw=draw)
    if stream:
        if save is not None or draw is not None:
            raise ClientError("--stream: leave out --save and --draw; the parts go to standard output")
        with server.connect() as connected:
            print_parts(connected.inference, name, requests, version, as_json=json)
        return None
    if draw is not None:
        drawing.require_pillow("--draw")
    return _answers(name, version, server, requests, save, draw)


def _answers(
    name: str,
    version: str | None,
    server: ServerOptions,
    requests: Sequence[Sent],
    save: Path | None,
    draw: Path | None,
) -> Iterator[Shown]:
    with server.connect() as connected, with_remedy({"": connected}, name):
        for sent in requests:
            answer = connected.inference.predict(name, version=version, **sent.arguments)
            error = None
            try:
                if save is not None:
                    save_answer(answer, save)
                if draw is not None:
                    drawing.draw(parsed(answer), sent.files, draw)
            except TorchmarError as failed:  # still show the answer
                error = failed
            facts = {"file": sent.title, "seconds": answer.seconds, **facts_of(answer)}
            title = f"{sent.title}  ({answer.seconds * 1000:.0f} ms)"
            yield Shown(facts, partial(print_answer, title, answer, saved=save), error=error)
