"""Keep what a run of maintenance leaves, and let one run at a time work in a folder."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ArchiveError, MaintenanceError
from ..export import Weights
from ..files import exists, is_file, remove_tree, replace_file
from ..lineage import Lineage
from ..mar import Archive, file_sha256, read
from ..versions import next_version, versions_in

WORK = ".maintain"
"""The folder of all runs beside model.yaml. It is hidden, so that no archive packs it."""

_DIGITS = 16  # of a run's name


@dataclass(frozen=True)
class Run:
    """The folder of one run, named by what the run was given: the same again goes on in it."""

    folder: Path

    @property
    def weights(self) -> Path:
        """Return the file of the candidate's weights."""
        return self.folder / "weights.pt"

    @property
    def trained(self) -> Path:
        """Return the file that says how the training went, once it has ended."""
        return self.folder / "trained.json"

    @property
    def store(self) -> Path:
        """Return the folder that the candidate is built into."""
        return self.folder / "store"


@contextmanager
def held(work: Path) -> Iterator[None]:
    """Hold a folder of runs for this process, whose end frees it. Raises MaintenanceError."""
    try:
        work.mkdir(parents=True, exist_ok=True)
        if not exists(work / ".gitignore"):  # what runs leave must not make the code's revision dirty
            replace_file(work / ".gitignore", b"*\n")
        lock = (work / "lock").open("a")
    except OSError as error:
        raise MaintenanceError(
            f"--work {work}: give a folder that can be written: {error.strerror}"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MaintenanceError(f"{work}: wait for the other run: it works in this folder") from None
        except OSError as error:
            what = "give a folder on a file system with locks"
            raise MaintenanceError(f"--work {work}: {what}: {error.strerror or error}") from None
        yield


def begin(work: Path, given: Mapping[str, Any]) -> Run:
    """Return the run that was given this. Raises OSError."""
    name = hashlib.sha256(json.dumps(given, sort_keys=True, default=str).encode()).hexdigest()[:_DIGITS]
    folder = work / name
    folder.mkdir(exist_ok=True)
    write_json(folder / "given.json", given)
    return Run(folder)


def version_of(run: Run, lineage: Lineage, parent: Archive, store: Path) -> str:
    """Return the version of a run's candidate: the next one that the store has not.

    A run that was killed keeps it, unless the store has another archive under it by now. Raises OSError,
    ArchiveError for a version that cannot be counted on.
    """
    file = run.folder / "version.json"
    known = (read_json(file) or {}).get("version")
    if isinstance(known, str) and _is_free_or_ours(store / f"{parent.name}-{known}.mar", lineage):
        return known
    version = next_version(parent.version, versions_in(store, parent.name))
    if run.store.is_dir():
        remove_tree(run.store)
    write_json(file, {"version": version})
    return version


def _is_free_or_ours(path: Path, lineage: Lineage) -> bool:
    if not exists(path):
        return True
    try:
        found = read(path).lineage
    except (ArchiveError, OSError):
        return False
    return found is not None and (found.parent, found.data) == (lineage.parent, lineage.data)


def first_weights(work: Path, parent: Archive, asked: str | None) -> Weights:
    """Return the weights that the parent was built from: what is `asked`, or what an earlier run kept.

    Raises MaintenanceError where the parent was built from a file that is not here, or from another one.
    """
    digest = None if parent.lineage is None else parent.lineage.weights_sha256
    built = (parent.build or {}).get("weights")
    origin, seed = (built.get("origin"), built.get("seed")) if isinstance(built, dict) else (None, None)
    if asked is not None:
        weights = Weights(asked)
        if digest is not None and weights.file is not None and _sha256(weights.file) != digest:
            raise MaintenanceError(
                f"--weights {asked}: give the file that {parent.path} was built from, which has the SHA-256 "
                f"{digest}"
            )
        return weights
    if digest is not None:
        kept = _kept(work, digest)
        if not is_file(kept):
            raise MaintenanceError(
                f"give --weights: {parent.path} was built from a file of weights with the SHA-256 {digest}: "
                f"{kept.parent} has none like it"
            )
        return Weights(str(kept))
    if origin == "file":
        raise MaintenanceError(f"give --weights: {parent.path} was built from a file, and does not say which")
    return Weights("random", seed) if origin == "random" and isinstance(seed, int) else Weights()


def _sha256(file: Path) -> str:
    try:
        return file_sha256(file)
    except OSError as error:
        raise MaintenanceError(f"--weights {file}: {error.strerror or error}") from None


def keep_weights(work: Path, run: Run) -> None:
    """Keep a candidate's weights under their digest: the next run begins with them. Raises OSError."""
    kept = _kept(work, file_sha256(run.weights))
    kept.parent.mkdir(exist_ok=True)
    replace_file(kept, run.weights.read_bytes())


def _kept(work: Path, digest: str) -> Path:
    return work / "weights" / f"{digest}.pt"


def read_json(file: Path) -> dict[str, Any] | None:
    """Return the object in a file that was written here; None without one."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write an object whole, or not at all. Raises OSError."""
    replace_file(file, (json.dumps(content, indent=2, default=str) + "\n").encode())
