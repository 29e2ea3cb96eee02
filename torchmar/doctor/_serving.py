"""Check the server of a folder: it has ended, or its default version answers nobody."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from ..client import Server, connect
from ..errors import ModelNotFound, UnmanageableName
from ..names import shown
from ..release import ServedVersion, status
from ..server import RunningServer, WorkerLog, died, state_file
from ._findings import ERROR, WARNING, Finding


def ended(folder: Path) -> Iterator[Finding]:
    """Find a server that was started here and ended without a stop."""
    pid = died(folder)
    if pid is not None:
        what = f"the TorchServe that was started here (process {pid}) has ended without `torchmar stop`"
        remedy = "`torchmar serve`, and then `torchmar reconcile` for what was released"
        yield Finding(WARNING, what, str(state_file(folder)), remedy)


def findings(running: RunningServer, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Find default versions that answer nobody, and what the folder's journals leave to do."""
    with connect(
        inference=running.config.inference,
        management=running.config.management,
        key_file=running.key_file,
        ca_file=environment.get("TORCHMAR_CA_FILE"),
    ) as server:
        defaults = _defaults(server)
    log = WorkerLog(running.logs)
    for model, one in defaults.items():
        if not one.ready:
            why = log.why_died(model, one.version)
            what = f"{shown(model)} {shown(one.version)} is the default and has no READY worker" + (
                f": {why}" if why else ""
            )
            remedy = f"torchmar repair {shown(model)}, or torchmar rollback {shown(model)}"
            yield Finding(ERROR, what, str(running.folder), remedy)
    for found in status(running.folder / "releases", {"local": defaults}):
        default = defaults.get(found.model)
        if found.to_do and (default is None or default.ready):
            what = f"{shown(found.model)}: {found.what} is {found.outcome}"
            yield Finding(WARNING, what, str(running.folder), found.to_do)


def _defaults(server: Server) -> dict[str, ServedVersion]:
    found = {}
    for entry in server.management.models():
        with suppress(ModelNotFound, UnmanageableName):  # `status` reports a name that nobody can manage
            found[entry.name] = ServedVersion.of(server.management.describe(entry.name))
    return found
