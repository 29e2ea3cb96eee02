"""The steps of a release on one host. Each can be taken again: it does what is not done yet.

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
from ._canary import CANARY, canary, no_canary
from ._gate import gate, shadow, warm
from ._host import is_same
from ._watch import watch
from ._work import Work
from .workers import has_version_metrics, requests_to_version


def take(work: Work, step: str) -> str:
    """Take one step; what came of it, in words. Raises TorchmarError."""
    try:
        if step.startswith(CANARY):
            return canary(work, float(step.removeprefix(CANARY)))
        return _STEPS[step](work)
    except OSError as error:
        raise ReleaseError(f"{work.model} {work.version}, {step} on {work.host.name}: {error}") from error


def _copy(work: Work) -> str:
    """Into the store under its immutable name; and what lies there is digested again."""
    if work.host.store is None:  # planned where it could be: what lies there now nobody has compared
        raise ReleaseError(
            f"give --store, as when this release was begun: the model store of {work.host.name} cannot be "
            f"seen from here, where {work.file} is to be copied into"
        )
    target = work.host.store / work.file
    remove_leftovers(target)
    try:
        if not target.exists():
            pack.copy(work.archive, target)
            return f"{target}, digested again"
        if not is_same(target, work.archive):
            raise ArchiveExists(f"{target} is there with other contents: raise `version` in model.yaml")
    except OSError as error:
        raise ArchiveError(f"{target}: {error.strerror or error}") from error
    return f"{target} is there already, digested again"


def remove_leftovers(target: Path) -> None:
    """Remove what a release that was killed had begun to write beside `target`; pack.beside names it."""
    for path in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        token = "-".join(path.name.removeprefix(f".{target.name}.").split("-")[:2])
        if by_token(token) is not None:
            continue  # one beside us writes for another server with the same store
        with suppress(OSError):
            is_folder = path.is_dir() and not path.is_symlink()
            remove_tree(path) if is_folder else path.unlink(missing_ok=True)


def _register(work: Work) -> str:
    management = work.host.server.management
    if has_version_metrics(work.host.server):  # a version that was unregistered counts on from where it was
        work.sent = int(requests_to_version(work.host.server, work.model, work.version))
    try:
        with unpacking(work.host.running, work.file):
            management.register_patiently(
                work.file,
                work.model,
                work.version,
                timeout=work.options.ready_timeout,
                sleep=work.sleep,
                initial_workers=work.workers,
            )
    except AlreadyRegistered:
        work.sent = 0  # it was counted when it was registered, if by a release
        described = management.describe(work.model, work.version)
        if described.archive != work.file:
            raise ReleaseError(
                f"{work.model} {work.version} is registered from {described.archive!r}, not from {work.file}"
            ) from None
        return f"{work.version} was registered already"
    except ArchiveNotInStore as error:
        if work.host.store is not None:
            raise
        raise ReleaseError(
            f"copy {work.archive.path} into the model store of {work.host.name} as {work.file}, or give "
            f"--store (`store:` in a file of hosts): by an address nothing is uploaded ({error})"
        ) from error
    return f"{work.version}, asynchronously"


def _ready(work: Work) -> str:
    try:
        model = work.host.server.management.bring_up(
            work.file,
            work.model,
            work.version,
            work.workers,
            timeout=work.options.ready_timeout,
            sleep=work.sleep,
        )
    except WorkersNotReady as error:
        if getattr(error, "reason", "") or not work.options.load:
            raise
        # The log may be out of reach, and TorchServe can lose a worker's last words: here it says them again.
        with suppress(ArchiveError):  # it cannot be unpacked here, which says nothing of the server
            check = check_archive(work.archive.path, timeout=min(60.0, work.options.ready_timeout))
            if not check.ok:
                told = f"{error}\n  loading it here: {check.reason}"
                raise WorkerFailedToLoad(told, check.reason) from error
        raise
    return f"{model.ready_workers} READY"


def _default(work: Work) -> str:
    management = work.host.server.management
    described = management.describe(work.model, work.version)
    if described.ready_workers < work.workers:  # the gate may be long ago
        raise ReleaseError(
            f"{work.model} {work.version}: {described.ready_workers} of {work.workers} workers are READY on "
            f"{work.host.name}, so it is not made the default; see model_log.log on the server"
        )
    begin = work.clock()
    management.set_default(work.model, work.version)
    seconds = work.clock() - begin
    found = management.default_version(work.model)
    if found != work.version:
        raise ReleaseError(
            f"{work.model}: the default is {shown(found)} and not {work.version}: somebody else sets it"
        )
    return f"{work.version}, in {seconds * 1e3:.0f} ms"


def _watch(work: Work) -> str:
    judgement = watch(
        work.host.server,
        work.model,
        work.version,
        work.workers,
        seconds=work.options.watch,
        requests=work.requests,
        before=work.before,
        max_slowdown=work.options.max_slowdown,
        timeout=work.watch_timeout,
        clock=work.clock,
        sleep=work.sleep,
    )
    work.decide("watch", judgement)
    return judgement.findings[0].text


_STEPS: Mapping[str, Callable[[Work], str]] = {
    "copy": _copy,
    "register": _register,
    "ready": _ready,
    "warm": warm,
    "gate": gate,
    "shadow": shadow,
    "default": _default,
    "nginx": no_canary,
    "watch": _watch,
}
