"""Commands that talk to a server: status, register, scale, versions, set-default, unregister, predict."""

from __future__ import annotations

import filecmp
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._options import JsonOption, ServerOptions, with_server
from ._output import escape, out, print_json, print_table, progress

if TYPE_CHECKING:
    from ..client import ModelVersion, Server

_PANEL = "A running server"
Name = Annotated[str, typer.Argument(help="The model's name.")]
Version = Annotated[str, typer.Argument(help="The model's version.")]
WaitOption = Annotated[float, typer.Option("--wait", help="Seconds to wait until workers are READY.", min=0)]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (status, register, scale, versions, predict, unregister):
        app.command(rich_help_panel=_PANEL)(with_server(command))
    app.command("set-default", rich_help_panel=_PANEL)(with_server(set_default))


def status(server: ServerOptions, json: JsonOption = False) -> None:
    """Show whether the server answers, and every version that it serves."""
    with server.connect() as connected:
        healthy = connected.inference.ping()
        management = connected.management
        rows = [row for entry in management.models() for row in versions_of(connected, entry.name)]
        addresses = {
            "inference": connected.inference.address,
            "management": management.address,
            "metrics": connected.metrics.address,
        }
    if json:
        print_json({"healthy": healthy, **addresses, "models": [_facts(*row) for row in rows]})
        return
    for name, address in addresses.items():
        out.print(f"{name:<11}{address}")
    out.print(f"{'health':<11}{'Healthy' if healthy else '[red]Unhealthy[/red]'}\n")
    print_versions(rows)


def versions(name: Name, server: ServerOptions, json: JsonOption = False) -> None:
    """Show the versions of one model."""
    with server.connect() as connected:
        rows = versions_of(connected, name)
    if json:
        print_json([_facts(*row) for row in rows])
    else:
        print_versions(rows)


def versions_of(server: Server, name: str) -> list[tuple[ModelVersion, bool]]:
    """A model's versions, each with whether it is the default."""
    default = server.management.default_version(name)
    return [(version, version.version == default) for version in server.management.versions(name)]


def _facts(version: ModelVersion, is_default: bool) -> dict[str, Any]:
    from dataclasses import asdict

    facts = {key: value for key, value in asdict(version).items() if key != "raw"}
    return {**facts, "default": is_default, "ready_workers": version.ready_workers}


def print_versions(rows: Iterable[tuple[ModelVersion, bool]]) -> None:
    """A line for each version, and whether it is the default."""
    columns = ["model", "version", "default", "ready>", "workers>", "batch>", "queued>", "archive"]
    cells = [
        (
            version.name,
            version.version,
            "default" if is_default else "",
            version.ready_workers,
            len(version.workers),
            version.batch_size,
            version.queue.pending_requests,
            version.archive,
        )
        for version, is_default in rows
    ]
    if cells:
        print_table("", columns, cells)
    else:
        out.print("no model is registered; `torchmar register NAME-VERSION.mar` does that")


def register(
    archive: Annotated[
        Path, typer.Argument(help="A .mar or folder in the server's model store, or a path to it.")
    ],
    server: ServerOptions,
    workers: Annotated[
        int | None, typer.Option(help="Workers, instead of the archive's minWorkers.", min=0)
    ] = None,
    default: Annotated[bool, typer.Option("--default", help="Make it the default when it is READY.")] = False,
    wait: WaitOption = 120.0,
    json: JsonOption = False,
) -> None:
    """Register an archive and wait until its workers are READY.

    One whose handler will not load is unregistered again, and the worker's own reason is shown.
    The first version of a model becomes its default; later ones do not unless told.
    """
    from ..errors import ClientError, WorkersNotReady
    from ..mar import verify as check_digests

    local = _local_file(archive, server.directory)
    facts = None if local is None else check_digests(local)
    with server.connect() as connected, progress(f"registering {archive.name}") as step:
        management = connected.management
        before = _registered(connected)
        management.register(archive.name, initial_workers=workers if workers is not None else 1)
        # What was registered is told by the server: its store may hold another archive of this name.
        name, version = _the_new_one(before, _registered(connected))
        if facts is not None and (name, version) != (facts.name, facts.version):
            raise ClientError(
                f"the server's {archive.name} is {name} {version}, the one here ({local}) is {facts.name} "
                f"{facts.version}. It was registered: `torchmar unregister {name} {version}` takes it back"
            )
        step("waiting until its workers are READY")
        try:
            asked = management.describe(name, version).min_workers
            wanted = asked if workers is None else workers
            if wanted != asked:
                management.scale(name, wanted, version)
            model = management.wait_until_ready(name, version, workers=wanted, timeout=wait)
        except WorkersNotReady as error:
            management.unregister(name, version)
            raise _with_reason(error, local) from error
        if default:
            management.set_default(name, version)
        is_default = management.default_version(name) == version
    if json:
        print_json(_facts(model, is_default))
    else:
        which = "the default version" if is_default else "not the default version"
        out.print(f"{escape(name)} {escape(version)}: {model.ready_workers} READY, {which}")


def _local_file(archive: Path, directory: Path) -> Path | None:
    """The archive, where this machine has it: as given, or in the model store here."""
    from ..errors import ArchiveError
    from ..mar import is_archive_folder

    def is_there(path: Path) -> bool:
        return path.is_file() or is_archive_folder(path)

    stored = directory / "model_store" / archive.name
    if len(archive.parts) > 1 and not archive.exists():
        raise ArchiveError(f"{archive}: no such file or folder")
    if is_there(archive) and is_there(stored) and not _same_archive(archive, stored):
        raise ArchiveError(
            f"{archive} is not what the server would take: {stored} has other contents. Copy it there under "
            "a name of its own, or build it with --store"
        )
    if stored.is_dir() and (directory / archive.name).is_dir():
        # A quirk of TorchServe: it looks for a folder where it runs before it looks into its model store.
        raise ArchiveError(
            f"{directory / archive.name}: the server runs in {directory.resolve()}, where it would take this "
            f"folder instead of {archive.name} in its model store. Rename it"
        )
    return next((path for path in (archive, stored) if is_there(path)), None)


def _same_archive(one: Path, other: Path) -> bool:
    from ..mar import read

    if one.samefile(other):
        return True
    if one.is_file() and other.is_file():
        return filecmp.cmp(one, other, shallow=False)
    return read(one).contents_sha256 == read(other).contents_sha256


def _registered(connected: Server) -> set[tuple[str, str]]:
    management = connected.management
    return {(v.name, v.version) for entry in management.models() for v in management.versions(entry.name)}


def _the_new_one(before: set[tuple[str, str]], after: set[tuple[str, str]]) -> tuple[str, str]:
    from ..errors import ClientError

    new = after - before
    if len(new) != 1:
        raise ClientError(f"which version was registered cannot be told: {sorted(new) or 'none is new'}")
    return new.pop()


def _with_reason(error: Exception, local: Path | None) -> Exception:
    """Where the server's log could not be read, a dry run here tells why."""
    from ..errors import WorkerFailedToLoad
    from ..worker import check_archive

    text = f"{error}\n  It was unregistered again"
    if isinstance(error, WorkerFailedToLoad) and not error.reason and local is not None:
        check = check_archive(local, timeout=120)
        if not check.ok:
            text = f"{error}\n  loading it here: {check.reason}\n  It was unregistered again"
    return type(error)(text)


def scale(
    name: Name,
    workers: Annotated[int, typer.Argument(help="How many workers.", min=0)],
    server: ServerOptions,
    version: Annotated[str | None, typer.Option(help="Instead of the default version.")] = None,
    wait: WaitOption = 120.0,
    json: JsonOption = False,
) -> None:
    """Set the number of workers of a version, and wait until that many are READY.

    With 0, requests that wait in its queue are never answered: TorchServe forgets them.
    """
    with server.connect() as connected, progress(f"scaling {name}") as step:
        step(f"waiting for {workers}")
        connected.management.scale(name, workers, version)
        model = connected.management.wait_until_ready(name, version, workers=workers, timeout=wait)
        is_default = connected.management.default_version(name) == model.version
    if json:
        print_json(_facts(model, is_default))
    else:
        out.print(f"{escape(model.name)} {escape(model.version)}: {model.ready_workers} READY")


def set_default(
    name: Name,
    version: Version,
    server: ServerOptions,
    force: Annotated[bool, typer.Option("--force", help="Even if it has no worker that is READY.")] = False,
    json: JsonOption = False,
) -> None:
    """Make a version answer requests that name none. Nothing is lost by it: it is a swap of a pointer.

    A version without a READY worker is refused, which TorchServe does not do: every request would fail.
    """
    from ..errors import WorkersNotReady

    with server.connect() as connected:
        management = connected.management
        model = management.describe(name, version)
        if model.ready_workers == 0 and not force:
            raise WorkersNotReady(
                f"{name} {version}: has no worker that is READY, so every request would fail. "
                f"`torchmar scale {name} 1 --version {version}` first, or --force"
            )
        previous = management.default_version(name)
        management.set_default(name, version)
    if json:
        print_json({"name": name, "default": version, "previous": previous})
    else:
        back = f" (back: torchmar set-default {name} {previous})" if previous != version else ""
        out.print(f"{escape(name)}: default is {escape(version)}{escape(back)}")


def unregister(
    name: Name,
    version: Version,
    server: ServerOptions,
    force: Annotated[bool, typer.Option("--force", help="Even if requests wait in its queue.")] = False,
    json: JsonOption = False,
) -> None:
    """Remove a version and end its workers.

    TorchServe kills them at once, and requests in the queue are never answered: a version whose queue is not
    empty is refused. Make another version the default first, and wait until the last answers have come.
    """
    from ..errors import ClientError

    with server.connect() as connected:
        model = connected.management.describe(name, version)
        if model.queue.pending_requests and not force:
            raise ClientError(
                f"{name} {version}: {model.queue.pending_requests} requests wait in its queue and would "
                "never be answered. Make another version the default, wait, and try again, or --force"
            )
        connected.management.unregister(name, version)
        connected.management.wait_until_gone(name, version)
    if json:
        print_json({"name": name, "version": version, "unregistered": True})
    else:
        out.print(f"{escape(name)} {escape(version)}: unregistered")


def predict(
    name: Name,
    files: Annotated[list[Path], typer.Argument(help="What to send, each file as one request.")],
    server: ServerOptions,
    version: Annotated[str | None, typer.Option(help="Instead of the default version.")] = None,
    json: JsonOption = False,
) -> None:
    """Send files to a model and show its answers."""
    from ..errors import ClientError

    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise ClientError(f"{', '.join(missing)}: cannot be read: no such file")
    results = []
    with server.connect() as connected:
        for file in files:
            answer = connected.inference.predict(name, file, version=version)
            try:
                content = answer.json()
            except ValueError:
                content = answer.content.decode("utf-8", errors="replace")
            results.append({"file": file, "seconds": answer.seconds, "answer": content})
            if not json:
                _print_answer(file, content, answer.seconds)
    if json:
        print_json(results)


def _print_answer(file: Path, content: Any, seconds: float) -> None:
    title = f"{file}  ({seconds * 1000:.0f} ms)"
    listed = isinstance(content, list) and all(isinstance(row, dict) and "label" in row for row in content)
    if listed:
        rows = [(f"{row['probability']:.1%}", row["label"], row["index"]) for row in content]
        print_table(title, ["probability>", "label", "index>"], rows)
    else:
        out.print(f"[bold]{escape(title)}[/bold]")
        print_json(content)
