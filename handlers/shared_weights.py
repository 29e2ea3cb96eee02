"""One copy of an ONNX model's weights for all workers of this machine.

ONNX Runtime optimises the graph and packs the weights anew in each session, into memory of each process. Here
one worker does it once and has the result saved; all of them map that file. It fits only the kind of machine
and the release of ONNX Runtime that wrote it, and so it is a cache on the serving machine, never part of an
archive (onnxruntime.ai/docs/performance/model-optimizations/graph-optimizations.html, "offline";
session option session.save_external_prepacked_constant_initializers).
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .process import give_back_freed_memory

logger = logging.getLogger(__name__)

MODEL = "model.onnx"
SOURCE = "source.txt"


def optimized_model(artifact: Path, temporary: Path | None = None) -> Path | None:
    """The optimised form of `artifact`, made if there is none; None where it cannot be made here.

    `temporary`: where caches are kept, by default the temporary folder of this process; TorchServe's own ends
    with the server under `torchmar serve`. Load it with graph optimisation off.
    """
    if os.name != "posix":
        return None
    try:
        folder = _private_folder(temporary or Path(tempfile.gettempdir()))
        target = folder / _key(artifact)
        with _locked(folder / "lock"):
            if not (target / MODEL).is_file():
                _remove_orphans(folder)
                _make(artifact, target)
        return target / MODEL
    except Exception as error:  # a full disk, a folder of someone else, an operator that cannot be saved
        logger.warning("the workers do not share the weights of %s: %s", artifact.name, error)
        return None


def _private_folder(temporary: Path) -> Path:
    """Ours alone: a model that another user could have put there would be code of another user."""
    folder = temporary / f"torchmar-onnxruntime-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if folder.is_symlink() or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"{folder} is not private to this user")
    return folder


def _key(artifact: Path) -> str:
    """Which file, on which kind of machine, by which release of ONNX Runtime.

    The file is known by what changes whenever its contents do; reading it all would take as long as loading
    it.
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
    """What the kernel says of the first processor, where it says it (Linux)."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return list(os.uname())
    wanted = ("vendor_id", "model name", "flags", "Features", "CPU implementer", "CPU part")
    return [line for line in text.partition("\n\n")[0].splitlines() if line.startswith(wanted)]


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """One worker makes it, the others wait for it. The lock ends with the process, however it ends."""
    import fcntl

    with file.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _make(artifact: Path, target: Path) -> None:
    import onnxruntime

    making = target.with_suffix(".making")
    shutil.rmtree(making, ignore_errors=True)  # of a worker that was killed while it made it
    making.mkdir()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns that the file fits only this kind of machine
    options.optimized_model_filepath = str(making / MODEL)
    for key, value in (
        ("session.optimized_model_external_initializers_file_name", f"{MODEL}.data"),
        ("session.optimized_model_external_initializers_min_size_in_bytes", "1024"),
        ("session.save_external_prepacked_constant_initializers", "1"),
    ):
        options.add_session_config_entry(key, value)
    try:
        onnxruntime.InferenceSession(str(artifact), options, providers=["CPUExecutionProvider"])
        (making / SOURCE).write_text(str(artifact.resolve()), encoding="utf-8")
        making.rename(target)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    give_back_freed_memory()  # of the session that made it; ResNet-18: 33 MB


def _remove_orphans(folder: Path) -> None:
    """Caches of archives that TorchServe has removed since; what is mapped stays until its worker ends."""
    for source in folder.glob(f"*/{SOURCE}"):
        if not Path(source.read_text(encoding="utf-8")).exists():
            shutil.rmtree(source.parent, ignore_errors=True)
