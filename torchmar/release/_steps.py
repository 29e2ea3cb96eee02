"""The steps of a release on one host. Each can run again, and does what is not done yet.

copy → register → ready → warm → gate → shadow → canary P … → default → nginx → watch
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from .. import pack
from ..errors import (
    AlreadyRegistered,
    ArchiveError,
    ArchiveExists,
    ArchiveNotInStore,
    ReleaseError,
    WorkerFailedToLoad,
    WorkersNotReady,
)
from ..files import remove_tree
from ..names import shown
from ..processes import by_token
from ..server import unpacking
from ..worker import check_archive
from ..workers import has_version_metrics, requests_to_version
from ._canary import CANARY, canary, end_canary
from ._facts import is_same
from ._gate import CandidateRun, gate, shadow, warm
from ._watch import watch


def run_step(run: CandidateRun, step: str) -> str:
    """Run one step and return what came of it, in words. Raises TorchmarError."""
    try:
        if step.startswith(CANARY):
            return canary(run, float(step.removeprefix(CANARY)))
        return _STEPS[step](run)
    except OSError as error:
        raise ReleaseError(f"{run.model} {run.version}, {step} on {run.host.name}: {error}") from error


def _copy(run: CandidateRun) -> str:
    """Copy the archive into the store under its immutable name, and digest what lies there."""
    if run.host.store is None:  # it could be seen when this was planned
        raise ReleaseError(
            f"give --store, as when this release was begun: the model store of {run.host.name} cannot be "
            f"seen from here, where {run.file} is to be copied into"
        )
    target = run.host.store / run.file
    remove_leftovers(target)
    try:
        if not target.exists():
            pack.copy(run.archive, target)
            return f"{target}, digested again"
        if not is_same(target, run.archive):
            raise ArchiveExists(f"{target} is there with other contents: raise `version` in model.yaml")
    except OSError as error:
        raise ArchiveError(f"{target}: {error.strerror or error}") from error
    return f"{target} is there already, digested again"


def remove_leftovers(target: Path) -> None:
    """Remove what a killed release had begun to write beside `target`; pack.beside names it."""
    for path in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        token = "-".join(path.name.removeprefix(f".{target.name}.").split("-")[:2])
        if by_token(token) is not None:
            continue  # one beside us writes for another server with the same store
        with suppress(OSError):
            is_folder = path.is_dir() and not path.is_symlink()
            remove_tree(path) if is_folder else path.unlink(missing_ok=True)


def _register(run: CandidateRun) -> str:
    management = run.host.server.management
    if has_version_metrics(run.host.server):  # a version that was unregistered counts on from where it was
        run.sent = int(requests_to_version(run.host.server, run.model, run.version))
    try:
        with unpacking(run.host.running, run.file):
            management.register_patiently(
                run.file,
                run.model,
                run.version,
                timeout=run.options.ready_timeout,
                sleep=run.sleep,
                initial_workers=run.workers,
            )
    except AlreadyRegistered:
        run.sent = 0  # it was counted when it was registered, if by a release
        described = management.describe(run.model, run.version)
        if described.archive != run.file:
            raise ReleaseError(
                f"{run.model} {run.version} is registered from {described.archive!r}, not from {run.file}"
            ) from None
        return f"{run.version} was registered already"
    except ArchiveNotInStore as error:
        if run.host.store is not None:
            raise
        raise ReleaseError(
            f"copy {run.archive.path} into the model store of {run.host.name} as {run.file}, or give "
            f"--store (`store:` in a file of hosts): by an address nothing is uploaded ({error})"
        ) from error
    return f"{run.version}, asynchronously"


def _ready(run: CandidateRun) -> str:
    try:
        model = run.host.server.management.bring_up(
            run.file,
            run.model,
            run.version,
            run.workers,
            timeout=run.options.ready_timeout,
            sleep=run.sleep,
        )
    except WorkersNotReady as error:
        if getattr(error, "reason", "") or not run.options.load:
            raise
        # The log may be out of reach, and TorchServe can lose a worker's last words.
        with suppress(ArchiveError):  # it cannot be unpacked here, which says nothing of the server
            check = check_archive(run.archive.path, timeout=min(60.0, run.options.ready_timeout))
            if not check.ok:
                text = f"{error}\n  loading it here: {check.reason}"
                raise WorkerFailedToLoad(text, check.reason) from error
        raise
    return f"{model.ready_workers} READY"


def _default(run: CandidateRun) -> str:
    management = run.host.server.management
    run.require_workers(", so it is not made the default")  # the gate may be long ago
    begin = run.clock()
    management.set_default(run.model, run.version)
    seconds = run.clock() - begin
    found = management.default_version(run.model)
    if found != run.version:
        raise ReleaseError(
            f"{run.model}: the default is {shown(found)} and not {run.version}: somebody else sets it"
        )
    return f"{run.version}, in {seconds * 1e3:.0f} ms"


_STEPS: Mapping[str, Callable[[CandidateRun], str]] = {
    "copy": _copy,
    "register": _register,
    "ready": _ready,
    "warm": warm,
    "gate": gate,
    "shadow": shadow,
    "default": _default,
    "nginx": end_canary,
    "watch": watch,
}
