"""Check what TorchServe needs before it starts, and make its environment.

TorchServe itself reports most of these problems late, and only in a log.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from ..errors import ServerNotStarted
from ..files import DISK_FULL, exists, free_bytes, is_folder
from ..names import shown
from ._config import ServerConfig
from ._java import Java
from ._ports import occupied
from ._settings import unreadable

_LEAST = 2**16  # bytes


def require_ready(folder: Path, model_store: Path, config: ServerConfig, python: str) -> None:
    """Raise ServerNotStarted with the reason if TorchServe could not start, or nobody could use it."""
    _require_torchserve(python)
    _require_readable(config)
    _require_free(config)
    _require_unicode(folder, model_store, config.path)
    if not is_folder(model_store):
        raise ServerNotStarted(f"model store {model_store}: no such folder; `torchmar archive` makes it")
    if not is_folder(folder):
        raise ServerNotStarted(f"{folder}: no such folder to start the server in")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ServerNotStarted(f"{folder} is not writable: TorchServe writes key_file.json and logs/ there")
    if is_full(folder):
        raise write_error(OSError(errno.ENOSPC, "", str(folder)), folder)


def not_in_store(config: ServerConfig, model_store: Path) -> list[str]:
    """List the `load_models` entries that TorchServe skips; it mentions them only in its log."""
    named = [entry.strip().rpartition("=")[2] for entry in config.get("load_models").split(",")]
    special = {"", "all", "none", "standalone"}
    return [
        f"load_models names {shown(file)}, which was not loaded: put it into {model_store}, and register it"
        for file in named
        if file.lower() not in special and "://" not in file and not exists(model_store / file)
    ]


def is_full(folder: Path) -> bool:
    """Return whether the disk lacks room for what TorchServe writes at its start: keys and output."""
    free = free_bytes(folder)
    return free is not None and free < _LEAST


def free_where(folder: Path) -> str:
    free = free_bytes(folder)
    return f"{'?' if free is None else f'{free / 1e6:,.1f}'} MB are free where {folder} is"


def write_error(error: OSError, folder: Path) -> ServerNotStarted:
    """Return the error for a file that could not be written before TorchServe runs."""
    where = Path(error.filename) if isinstance(error.filename, str | os.PathLike) else folder
    if error.errno in DISK_FULL:
        disk = where if is_folder(where) else where.parent
        what = f"{where}: cannot be written, the disk is full: {free_where(disk)}"
        return ServerNotStarted(f"{what}. Remove something there, or start the server in another --dir")
    return ServerNotStarted(f"{where}: {error.strerror or error}")


def _require_torchserve(python: str) -> None:
    if python == sys.executable:
        import importlib.util

        for module, package in (("ts", "torchserve"), ("yaml", "PyYAML"), ("psutil", "psutil")):
            if importlib.util.find_spec(module) is None:
                raise ServerNotStarted(f"{package} is not installed here: pip install 'torchmar[serve]'")


def _require_readable(config: ServerConfig) -> None:
    problems = unreadable(config)
    if problems:
        lines = [f"{problem.what}. {problem.remedy[:1].upper()}{problem.remedy[1:]}" for problem in problems]
        raise ServerNotStarted(f"{config.path or 'the configuration'}: " + "\n  ".join(lines))


def _require_unicode(*paths: Path | None) -> None:
    """Raise for a file name that is not UTF-8, which Java cannot open, or that the locale cannot encode."""
    for path in paths:
        try:
            name = os.fsencode(path or "")
        except UnicodeEncodeError:
            raise ServerNotStarted(
                f"{path}: export LC_ALL=C.UTF-8: in this locale no file can be named so, as its encoding is "
                f"{sys.getfilesystemencoding()}"
            ) from None
        try:
            name.decode("utf-8")
        except UnicodeDecodeError:
            raise ServerNotStarted(
                f"{name!r}: this name is not UTF-8, and TorchServe's Java opens no such files: rename it"
            ) from None


def _require_free(config: ServerConfig) -> None:
    in_use = occupied(config)
    if in_use:
        reasons = ", ".join(f"{why} ({key})" for key, why in in_use.items())
        raise ServerNotStarted(
            f"cannot listen: {reasons}. Stop what listens there (`torchserve --stop`?), change "
            f"{config.path or 'the configuration'}, or give --free-ports"
        )


def server_environment(
    environment: Mapping[str, str], java: Java, temporary: Path, logs: Path, python: str
) -> dict[str, str]:
    """Return the environment for TorchServe's launcher, its Java and its workers."""
    result = dict(environment)
    for name in ("TS_CONFIG_FILE", "PYTHONDONTWRITEBYTECODE", "PYTHONIOENCODING"):
        # TS_CONFIG_FILE would replace our configuration, PYTHONDONTWRITEBYTECODE makes every worker compile
        # its imports again, and PYTHONIOENCODING concerns the terminal of whoever starts the server.
        result.pop(name, None)
    result["JAVA_HOME"] = str(java.home)
    result["TMPDIR"] = result["TEMP"] = str(temporary)
    result["LOG_LOCATION"] = result["METRICS_LOCATION"] = str(logs)
    result["PATH"] = os.pathsep.join([str(Path(python).parent), result.get("PATH", "")])
    if not _is_utf8(result, python):
        # Java decodes file names, and workers print, in the locale's encoding: ASCII in the POSIX locale.
        result["LC_ALL"] = "C.UTF-8"
    return result


def _is_utf8(environment: Mapping[str, str], python: str) -> bool:
    """Return whether programs use UTF-8 in this environment; its locale may not even be installed."""
    if sys.platform == "darwin":
        return True  # Java uses UTF-8 here in any locale
    # Import a built-in module, so that no file of the current folder shadows it.
    ask = "import _locale as l; l.setlocale(l.LC_ALL, ''); print(l.nl_langinfo(l.CODESET))"
    plain = {**environment, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    try:
        done = subprocess.run(
            [python, "-S", "-c", ask], env=plain, capture_output=True, timeout=30, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return done.stdout.strip().upper() == b"UTF-8"
