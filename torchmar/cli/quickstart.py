"""`torchmar quickstart`: all of it once, on a real model and a real photograph."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import TorchmarError
from ..files import exists, is_file
from ._output import err, escape, out, print_table

if TYPE_CHECKING:
    from ..client import Server
    from ..server import RunningServer

_MODEL = "efficientnet_lite0"
_OLD, _NEW = "1.0", "2.0"
_ANSWER = "military uniform"


class QuickstartFailed(TorchmarError):
    """A step did not give what it must."""


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel="Start here")(quickstart)


def quickstart(
    once: Annotated[bool, typer.Option("--once", help="Stop the server at the end (for CI).")] = False,
    directory: Annotated[Path, typer.Option("--dir", help="torchmar's checkout.")] = Path(),
) -> None:
    """Build two versions of a real classifier, serve them, classify a photograph, switch versions.

    A second run is quick: archives that are up to date are kept, a server that runs is used.
    """
    folder = directory.resolve()
    model = folder / "models" / _MODEL
    if not is_file(model / "model.yaml"):
        raise QuickstartFailed(f"{model} is missing: run this in torchmar's checkout, or give it with --dir")
    photograph = _photograph()
    store = _store(folder)
    _build(model, store, _OLD, "eager", "version 1.0: the PyTorch module as it is")
    _build(model, store, _NEW, "onnx", "version 2.0: exported to ONNX, served without torch")
    running, started = _server(folder, store)
    try:
        with _connect(running) as server:
            _register(server, _OLD)
            server.management.set_default(_MODEL, _OLD)
            _show(server, photograph, None, "the default version, 1.0")
            _register(server, _NEW)
            _compare(server, photograph)
            server.management.set_default(_MODEL, _NEW)
            _done(f"default is now {_NEW}; back it is one call, too")
            _show(server, photograph, None, "the default version, 2.0")
            _served(server)
    except BaseException:
        if started and once:
            _stop(running)
        raise
    if once:
        _stop(running)
    else:
        _how_to_go_on(running, photograph)


def _photograph() -> Path:
    try:
        from matplotlib import cbook
    except ModuleNotFoundError:
        remedy = "pip install 'torchmar[models]'"
        raise QuickstartFailed(f"the photograph comes with matplotlib, which is missing: {remedy}") from None
    return Path(str(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)))


def _doing(what: str) -> Any:
    """A line that turns with the seconds on a terminal, and is simply printed elsewhere."""
    if err.is_terminal:
        return err.status(escape(what))
    from contextlib import nullcontext

    return nullcontext()


def _done(what: str) -> None:
    out.print(f"[green]✓[/green] {escape(what)}")


def _build(model: Path, store: Path, version: str, runtime: str, what: str) -> None:
    from ..archive import build
    from ..errors import ArchiveExists
    from ..spec import load_model

    source = load_model(model, {"version": version, "runtime": runtime})
    with _doing(f"building {what}"):
        target = store / f"{source.spec.name}-{source.spec.version}.mar"
        try:
            built = build(source, store)
        except ArchiveExists:
            if not _is_pretrained(target):
                raise
            built = build(source, store, force=True)
            how = "built anew, as the checkout has changed"
        else:
            how = "is up to date" if built.was_there else "built"
    _done(f"{what}: {built.archive.path.name} {how}")


def _is_pretrained(archive: Path) -> bool:
    """Whether an archive can be built again from the checkout alone: then replacing it loses nothing."""
    from ..mar import read

    build = read(archive).build or {}
    return bool(build.get("weights", {}).get("origin") == "pretrained")


def _store(folder: Path) -> Path:
    """Where the server takes archives from: the one that runs, or that will be started."""
    from ..server import config_or_defaults, find_running

    running = find_running(folder)
    store = None if running is None else running.model_store
    return store or config_or_defaults(folder / "config.properties").store(folder)


def _server(folder: Path, store: Path) -> tuple[RunningServer, bool]:
    from ..server import find_running, free_ports, port_is_free, read_config, start

    running = find_running(folder)
    if running is not None:
        _done(f"TorchServe is running already at {running.config.inference}")
        return running, False
    config = read_config(folder / "config.properties")
    if not all(port_is_free(port) for port in config.ports().values()):
        config = free_ports(config)
        out.print("  the usual ports are in use by something else: taking free ones")
    with _doing("starting TorchServe"):
        running = start(folder, store, config, environment=os.environ)
    _done(f"TorchServe listens at {running.config.inference}")
    for note in running.notes:
        out.print(f"  {escape(note)}")
    return running, True


def _connect(running: RunningServer) -> Server:
    from ..client import KeyFile, NoTokens, connect
    from ..server import WorkerLog

    return connect(
        inference=running.config.inference,
        management=running.config.management,
        metrics=running.config.metrics,
        tokens=NoTokens() if running.key_file is None else KeyFile(running.key_file),
        reason=WorkerLog(running.logs).why_died,
    )


def _register(server: Server, version: str) -> None:
    from ..errors import AlreadyRegistered

    with _doing(f"registering {version} and waiting for its worker"):
        try:
            server.management.register(f"{_MODEL}-{version}.mar")
            how = "registered"
        except AlreadyRegistered:
            how = "was registered already"
        model = server.management.wait_until_ready(_MODEL, version)
    _done(f"version {version} {how}: {model.ready_workers} worker READY")


def _classify(server: Server, photograph: Path, version: str | None) -> list[dict[str, Any]]:
    answer: list[dict[str, Any]] = server.inference.predict(_MODEL, photograph, version=version).json()
    if answer[0]["label"] != _ANSWER:
        raise QuickstartFailed(f"the photograph shows a {_ANSWER}, the answer was {answer[0]}")
    return answer


def _show(server: Server, photograph: Path, version: str | None, which: str) -> None:
    answer = _classify(server, photograph, version)
    _done(f"{photograph.name} of matplotlib classified by {which}:")
    rows = [(f"{row['probability']:.1%}", row["label"]) for row in answer[:3]]
    print_table("", ["  probability>", "label"], [(f"  {p}", label) for p, label in rows])


def _compare(server: Server, photograph: Path) -> None:
    """The new version, pinned, must answer as the old one before it may become the default."""
    old, new = (_classify(server, photograph, version) for version in (_OLD, _NEW))
    difference = max(abs(a["probability"] - b["probability"]) for a, b in zip(old, new, strict=True))
    if [row["index"] for row in old] != [row["index"] for row in new] or difference > 1e-3:
        raise QuickstartFailed(f"the versions differ: {_OLD} answers {old}, {_NEW} answers {new}")
    _done(
        f"version {_NEW} gives the same answer: top 5 equal, probabilities differ by {difference:.1e} at most"
    )


def _served(server: Server) -> None:
    from .models import print_versions, versions_of

    out.print()
    print_versions(versions_of(server, _MODEL))
    out.print()


def _stop(running: RunningServer) -> None:
    from ..server import stop

    with _doing("stopping TorchServe"):
        stop(running)
    _done("TorchServe has stopped")


def _how_to_go_on(running: RunningServer, photograph: Path) -> None:
    here, program = Path.cwd(), Path(".venv/bin/torchmar")
    where = "" if running.folder == here else f" --dir {shlex.quote(str(running.folder))}"
    if not exists(here / program):
        program = Path(sys.argv[0]).resolve()
    command = shlex.quote(str(program))
    out.print(
        f"It listens at [bold]{running.config.inference}[/bold], on this machine only. Send it a picture:\n"
    )
    header = ""
    if running.key_file is not None:
        read = f"json.load(open('{running.key_file}'))['inference']['key']"
        out.print(f'  TOKEN=$(python3 -c "import json; print({escape(read)})")')
        header = '-H "Authorization: Bearer $TOKEN" '
    url = f"{running.config.inference}/predictions/{_MODEL}"
    out.print(f"  curl {header}-T {shlex.quote(str(photograph))} {url}\n")
    out.print("The token is valid for an hour and until the server stops. What is served, and stopping it:\n")
    out.print(f"  {command} status{where}\n  {command} stop{where}")
