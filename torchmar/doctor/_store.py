"""Check the archives in a model store."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from .. import mar
from ..errors import ArchiveError
from ..files import exists, is_file, is_folder
from ..mar import Archive
from ..names import shown
from ..server import room_for
from ..worker import NEEDS_TORCH, NOTHING_ASKED, Check
from ._batches import client_timeouts, slow_batches
from ._findings import ERROR, OK, WARNING, Finding, apart


def findings(
    store: Path,
    unpacks_into: Path | None,
    *,
    load: bool | None,
    check: Callable[[Path], Check],
    progress: Callable[[str], None],
) -> Iterator[Finding]:
    """Check each archive. `unpacks_into` is the folder that the server unpacks into, None if unknown."""
    if not is_folder(store):
        yield Finding(ERROR, "there is no model store", str(store), "torchmar archive models/NAME makes it")
        return
    for path in sorted(store.glob(".*.tmp")) + sorted(store.glob(".torchmar-build-*")):
        what = "something is being built here, or a build was killed"
        yield Finding(WARNING, what, str(path), f"if none runs: rm -r {path}")
    yield from _closed(store)
    yield from _unread(store)
    versions: dict[tuple[str, str], Path] = {}
    for path in mar.find_archives(store):
        progress(shown(path.name))
        if path.is_symlink() and not exists(path):
            remedy = "put back what it leads to, or remove it"
            yield Finding(ERROR, f"this link leads to nothing: {path.readlink()}", str(path), remedy)
            continue
        look = partial(_archive, path, unpacks_into, versions, load=load, check=check)
        yield from apart("it", look, where=str(path), level=ERROR)


def _closed(store: Path) -> Iterator[Finding]:
    """Find folders that this user may not read: an archive, or a disk's lost+found."""
    for path in sorted(store.iterdir()):
        if is_folder(path) and not os.access(path, os.R_OK | os.X_OK):
            remedy = "if it is an archive, let this user read it; a lost+found does no harm"
            yield Finding(WARNING, "this folder is not readable", str(path), remedy)


def _unread(store: Path) -> Iterator[Finding]:
    """Find archives that TorchServe loads with its whole store, but torchmar does not read."""
    for path in sorted(store.iterdir()):
        if path.name.endswith((".tar.gz", ".model")) and not path.name.startswith(".") and is_file(path):
            what = "TorchServe takes this for a tar.gz archive, and would serve it; it was not checked"
            yield Finding(WARNING, what, str(path), "to check it, repack it as a .mar")


def _archive(
    path: Path,
    unpacks_into: Path | None,
    versions: dict[tuple[str, str], Path],
    *,
    load: bool | None,
    check: Callable[[Path], Check],
) -> Iterator[Finding]:
    file = path.name
    if ".." in file or not file.isprintable():
        what = f"no call can name this file: {shown(file)!r}"
        yield Finding(ERROR, what, str(path), "rename it to NAME-VERSION.mar")
    if not file.isprintable():
        return
    try:
        archive = mar.verify(path)
    except ArchiveError as error:
        yield Finding(ERROR, str(error), str(path), "rebuild it, or remove it")
        return
    if file.startswith("token"):
        what = "registered by its path, as url=/…/token…, TorchServe takes the call for its token API"
        yield Finding(WARNING, what, str(path), "register it by its name alone, or rename it")
    yield from _twice(archive, versions)
    for what in slow_batches(archive.config):
        yield Finding(WARNING, what, str(path), "lower it in model.yaml (10 ms are enough), or leave it out")
    for what in client_timeouts(archive.config):
        yield Finding(WARNING, what, str(path), "leave it out: callers have timeouts of their own")
    sizes = [file.size for file in archive.files]
    room = None if unpacks_into is None or path.is_dir() else room_for(unpacks_into, sizes)
    if room is not None and not room.is_enough:
        remedy = (
            "free some, or set TMPDIR to a larger disk; an archive's folder (--directory) is not unpacked"
        )
        yield Finding(ERROR, f"it does not fit where it would be unpacked: {room}", str(path), remedy)
        return
    is_ours = archive.build is not None and archive.digests is not None
    yield _loaded(archive, check(path) if load or (load is None and is_ours) else None, load)


_OTHER_PYTHON = "`torchmar verify --python PYTHON` loads it by the Python that the server runs it with"


_NO_PICKLE = "build it of what torch.jit.save or torch.export.save wrote, or by `source`"


def _twice(archive: Archive, versions: dict[tuple[str, str], Path]) -> Iterator[Finding]:
    """Check whether an earlier archive has the same version. Remembers this one for the next."""
    other = versions.setdefault((archive.name, archive.version), archive.path)
    if other != archive.path:
        what = f"it is {shown(archive.name)} {shown(archive.version)}, as {shown(other.name)} is"
        remedy = "a server takes one of the two: remove the other, or build it as another version"
        yield Finding(WARNING, what, str(archive.path), remedy)


def _loaded(archive: Archive, checked: Check | None, load: bool | None) -> Finding:
    where = str(archive.path)
    if checked is not None and not checked.ok:
        remedy = "TorchServe would restart its worker again and again: rebuild it, or remove it"
        return Finding(ERROR, checked.reason, where, remedy)
    digests = "no digests" if archive.digests is None else "digests match"
    result = f"{shown(archive.name)} {shown(archive.version)}: {digests}"
    if checked is None:
        why = "" if load is False else ", as torchmar did not build it: --load runs its code"
        if archive.is_pickled:
            return Finding(WARNING, f"{result}, not loaded{why}; {mar.PICKLED}", where, _NO_PICKLE)
        return Finding(OK, f"{result}, not loaded{why}", where)
    result = f"{result}, loads in {checked.load_seconds:.1f} s"
    # The server's own Python loaded it, so it has what the archive needs.
    caveats = dict.fromkeys((one for one in checked.caveats if one != NEEDS_TORCH), _OTHER_PYTHON)
    if archive.is_pickled:
        caveats[mar.PICKLED] = _NO_PICKLE
    if not checked.golden:
        caveats[NOTHING_ASKED] = "name some requests by `golden:` in model.yaml"
    if caveats:
        remedy = "; ".join(dict.fromkeys(caveats.values()))
        return Finding(WARNING, f"{result}; {'; '.join(caveats)}", where, remedy)
    return Finding(OK, result, where)
