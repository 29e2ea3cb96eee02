"""Have a standby answer for a version while that one's workers are changed.

TorchServe has no way to end an idle worker: scaling down kills the newest, whatever they have in hand. So
the default version is made idle first: the same archive under another version takes over, and gives back at
the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .. import mar, pack
from ..client import ModelVersion, Server
from ..errors import ReleaseError
from ..files import exists, remove_tree
from ..measure.replay import warm_up
from ._drain import drain_and_unregister
from ._pace import WaitPolicy

_SUFFIX = "-standby"


def standby_of(version: str) -> str:
    """Return the name of the standby of a version."""
    return version + _SUFFIX


def stood_in_for(version: str) -> str:
    """Return the version that a standby answers for; of any other version, that one."""
    return version.removesuffix(_SUFFIX)


def is_standby(version: str) -> bool:
    """Return whether a version is the standby of another."""
    return version.endswith(_SUFFIX)


@contextmanager
def standby_for(
    server: Server, store: Path, described: ModelVersion, workers: int, pace: WaitPolicy
) -> Iterator[mar.Archive]:
    """Make a standby with this many workers the default instead of a version while the block runs.

    Then the version is the default again, and nothing is left of the standby. If the version has no READY
    worker then, the standby stays and ReleaseError says so. Steps: make-standby, register-standby,
    default-to-standby, and those of `end_standby`.
    """
    model, version = described.name, described.version
    archive = _archive(store, described)
    end_standby(server, store, model, version, pace)  # of an act that was interrupted
    pace.on_step("make-standby")
    made = _made(archive, _folder(store, model, version), version, workers)
    try:
        pace.on_step("register-standby")
        server.management.bring_up(
            made.path.name,
            model,
            made.version,
            workers,
            name=model,
            batch_size=described.batch_size,
            # Registered by a JSON body without it, a version has a delay of -10,000 ms: see docs/serving.md.
            max_batch_delay=max(0, described.max_batch_delay),
            response_timeout=described.response_timeout or None,
            startup_timeout=described.startup_timeout or None,
        )
        warmed_up(server, described, made.version, made)
        pace.on_step("default-to-standby")
        server.management.set_default(model, made.version)
        yield made
    finally:
        end_standby(server, store, model, version, pace)


def end_standby(server: Server, store: Path, model: str, version: str, pace: WaitPolicy) -> None:
    """Make a version the default again instead of its standby, and remove the standby.

    It can be called again after an interruption, and does nothing without a standby. Raises ReleaseError
    where only the standby can answer. Steps: default-back, drain-standby, unregister-standby, remove-standby.
    """
    versions = {one.version: one for one in server.management.versions(model)}
    name = standby_of(version)
    if name in versions:
        if server.management.default_version(model) == name:
            if version not in versions or not versions[version].ready_workers:
                raise ReleaseError(
                    f"{model} {version}: has no READY worker, so its standby {name} goes on to answer; "
                    "see model_log.log on the server for what its workers died of, then: "
                    f"torchmar repair {model}"
                )
            pace.on_step("default-back")
            server.management.set_default(model, version)
        drain_and_unregister(server, model, name, pace, "-standby")
    folder = _folder(store, model, version)
    if folder.exists():
        pace.on_step("remove-standby")
        remove_tree(folder)


def warmed_up(server: Server, described: ModelVersion, version: str, archive: mar.Archive) -> None:
    """Send a version the golden requests of its archive, whatever it answers."""
    timeout = float(described.response_timeout)
    warm_up(server, described.name, version, mar.golden_requests(archive), timeout)


def _folder(store: Path, model: str, version: str) -> Path:
    return store / f"{model}-{standby_of(version)}"


def _archive(store: Path, described: ModelVersion) -> mar.Archive:
    """Return the archive that a version was registered from, checked. Raises ReleaseError."""
    what, path = f"{described.name} {described.version}", store / described.archive
    if "/" in described.archive or not exists(path):
        raise ReleaseError(
            f"{what}: was registered from {described.archive}, which is not in {store}, but its workers are "
            "changed without loss only with it at hand: put it there, or give the server's model store"
        )
    archive = mar.read(path)
    wrong = archive.problems()
    if archive.version != described.version:
        wrong = [f"holds version {archive.version} by now"]
    if wrong:
        raise ReleaseError(
            f"{what}: {path} is not what was registered: {'; '.join(wrong[:3])}; put it back first"
        )
    return archive


def _made(archive: mar.Archive, target: Path, version: str, workers: int) -> mar.Archive:
    """Return the archive under the standby's version, with this many workers; a folder is hard-linked."""
    # Its minWorkers wins over what is asked for at registration.
    config = {**archive.config, "minWorkers": workers, "maxWorkers": workers}
    return pack.reversioned(archive, target, standby_of(version), config, link=True, force=True)
