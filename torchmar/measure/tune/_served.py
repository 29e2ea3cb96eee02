"""Convert between archives and candidates."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ... import pack
from ...errors import TuneError
from ...handler_code import handlers
from ...mar import GOLDEN, GOLDEN_ANSWERS, Archive
from ._values import Candidate


def cpus() -> int:
    """Return how many processors the workers have, by the workers' own count."""
    return int(handlers("worker.cpus").available_cpus())


def default_of(archive: Archive, available: int) -> Candidate:
    """Return the archive's current candidate; threads are None if no section `handler` sets them."""
    config = archive.config
    workers, batch_size = int(config.get("minWorkers", 1)), int(config.get("batchSize", 1))
    delay = int(config.get("maxBatchDelay", 100)) if batch_size > 1 else 0
    if not _is_ours(config):
        return Candidate(workers, None, batch_size, delay)
    handler = config["handler"]
    threads = handler.get("threads", "auto")
    if threads == "auto":
        threads = max(1, available // max(1, int(handler.get("workers", workers))))
    return Candidate(workers, int(threads), batch_size, delay)


def _is_ours(config: Mapping[str, Any]) -> bool:
    """Return whether a BatchHandler reads the section `handler`; that of other handlers stays unchanged."""
    handler = config.get("handler")
    return isinstance(handler, Mapping) and "models" in handler


def folder_of(
    archive: Archive, target: Path, version: str, candidate: Candidate | None, *, link: bool = False
) -> Archive:
    """Make a folder archive of this version that serves as `candidate` says; None keeps the settings.

    `archive` was just verified. With `link`, it is one of tune's own folders, and shares its large files.
    Raises ArchiveError.
    """
    config = None if candidate is None else config_of(archive.config, candidate)
    return pack.reversioned(archive, target, version, config, link=link)


def config_of(config: Mapping[str, Any], candidate: Candidate) -> dict[str, Any]:
    """Return a model-config.yaml's content with a candidate's settings."""
    changed: dict[str, Any] = copy.deepcopy(dict(config))
    changed |= {"minWorkers": candidate.workers, "maxWorkers": candidate.workers}
    changed["batchSize"] = candidate.batch_size
    if candidate.batch_size > 1:
        changed["maxBatchDelay"] = candidate.max_batch_delay
    if candidate.threads is not None:
        changed["handler"] |= {"threads": candidate.threads, "workers": candidate.workers}
        changed["handler"].pop("record", None)  # a measurement is no traffic to record
    return changed


def requests_of(archive: Archive, bodies: tuple[Path, ...]) -> tuple[Path, ...]:
    """Return the files to send in turn: the given ones, or else an archive folder's golden requests.

    Raises TuneError.
    """
    files = bodies
    if not files:
        names = [file.name for file in archive.files if file.name.startswith(f"{GOLDEN}/")]
        files = tuple(archive.path / name for name in names if name != GOLDEN_ANSWERS)
    if not files:
        raise TuneError("the archive holds no golden requests, so give what to send with --request FILE")
    for file in bodies:
        if not file.is_file():
            raise TuneError(f"--request {file}: no such file")
    return tuple(file.resolve() for file in files)
