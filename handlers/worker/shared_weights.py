"""Share one copy of an ONNX model's weights among all workers of this machine.

ONNX Runtime optimises the graph and packs the weights again in each session, in each process's memory. Here
one worker does it once and saves the result; all workers map that file. It fits only the machine type and the
ONNX Runtime release that wrote it, so it is a cache on the serving machine, never part of an archive
(onnxruntime.ai/docs/performance/model-optimizations/graph-optimizations.html, "offline";
session option session.save_external_prepacked_constant_initializers).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .process import give_back_freed_memory

logger = logging.getLogger(__name__)

MODEL = "model.onnx"
ABOUT = "about.json"
LOCK = "lock"


def optimized_model(artifact: Path, temporary: Path | None = None) -> Path | None:
    """Return the optimised form of `artifact`, made if need be; None if that fails here.

    `temporary` is the folder for caches, by default this process's temporary folder; under `torchmar serve`,
    that folder ends with the server. Load the result with graph optimisation off.
    """
    if os.name != "posix":
        return None
    try:
        folder = _private_folder(temporary or Path(tempfile.gettempdir()))
        target = folder / _key(artifact)
        with _locked(folder / LOCK):
            if not _whole(target):
                _remove_orphans(folder)
                _make(artifact, target)
        return target / MODEL
    except Exception as error:  # a full disk, another user's folder, an operator that cannot be saved
        logger.warning("the workers do not share the weights of %s: %s", artifact.name, error)
        return None


def _private_folder(temporary: Path) -> Path:
    """Return a folder of this user alone: a model that another user put there would run that user's code."""
    folder = temporary / f"torchmar-onnxruntime-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if folder.is_symlink() or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"{folder} is not private to this user")
    return folder


def _key(artifact: Path) -> str:
    """Return a key for the file, the kind of machine and the ONNX Runtime release.

    Facts that change with the contents identify the file; reading it all would take as long as loading it.
    """
    import onnxruntime

    status = artifact.stat()
    facts = (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        onnxruntime.__version__,
        _cpu(),
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


def _cpu() -> list[str]:
    """Return the kernel's facts about the first processor, if available (Linux)."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return list(os.uname())
    wanted = ("vendor_id", "model name", "flags", "Features", "CPU implementer", "CPU part")
    return [line for line in text.partition("\n\n")[0].splitlines() if line.startswith(wanted)]


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Let one worker make it while the others wait. The lock ends with the process."""
    import fcntl

    with file.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _make(artifact: Path, target: Path) -> None:
    import onnxruntime

    making = target.with_suffix(".making")
    _remove(making)  # left by a killed worker
    making.mkdir()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns that the file fits only this kind of machine
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = str(making / MODEL)
    for key, value in (
        ("session.optimized_model_external_initializers_file_name", f"{MODEL}.data"),
        ("session.optimized_model_external_initializers_min_size_in_bytes", "1024"),
        ("session.save_external_prepacked_constant_initializers", "1"),
    ):
        options.add_session_config_entry(key, value)
    try:
        onnxruntime.InferenceSession(str(artifact), options, providers=["CPUExecutionProvider"])
        sizes = {path.name: path.stat().st_size for path in making.iterdir()}
        about = {"source": str(artifact.resolve()), "sizes": sizes}
        (making / ABOUT).write_text(json.dumps(about), encoding="utf-8")
        for path in (*making.iterdir(), making):
            _to_disk(path)  # a file of zeros after a power cut would pass for the weights
        _remove(target)
        making.rename(target)
    except BaseException:
        _remove(making)
        raise
    give_back_freed_memory()  # of the session that made it; ResNet-18: 33 MB


def _remove(folder: Path) -> None:
    """Remove a cache, a folder of files. Keeps anything else, and ignores failures."""
    with suppress(OSError):
        if folder.is_symlink():
            folder.unlink()
            return
        for file in list(folder.iterdir()):
            with suppress(OSError):
                file.unlink()
        folder.rmdir()


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _whole(target: Path) -> bool:
    """Return whether all files are complete: temporary folders are cleaned file by file."""
    sizes = _about(target)["sizes"]
    try:
        return bool(sizes) and all((target / name).stat().st_size == size for name, size in sizes.items())
    except OSError:
        return False


def _about(target: Path) -> dict[str, Any]:
    """Return a cache's source and its files' sizes; empty if incomplete."""
    try:
        found = json.loads((target / ABOUT).read_text(encoding="utf-8"))
        return {"source": str(found["source"]), "sizes": dict(found["sizes"])}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {"source": "", "sizes": {}}


def _remove_orphans(folder: Path) -> None:
    """Remove caches of changed or removed files, and what killed workers left; needs the lock.

    Mapped files stay until their worker ends.
    """
    for target in list(folder.iterdir()):
        try:
            current = _key(Path(_about(target)["source"])) == target.name
        except (OSError, ValueError):
            current = False
        if not current and target.name != LOCK:
            _remove(target)
