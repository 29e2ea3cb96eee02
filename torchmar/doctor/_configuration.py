"""Check config.properties for what will not work, works badly, or is not what it seems."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import ServerError
from ..server import ServerConfig, doubtful, load_config, parse_properties, unreadable
from ._batches import slow_batches
from ._findings import ERROR, OK, WARNING, Finding

# (setting, test for weakness, consequence, remedy)
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


def findings(config: ServerConfig, folder: Path) -> Iterator[Finding]:
    """Check the configuration of the server in a folder; one without a path has TorchServe's own defaults."""
    file = config.path or folder
    troubles = [*_read_otherwise(config, file), *_values(config), *_weaknesses(config, folder)]
    if config.path is None:
        what = (
            "no config.properties: a start by hand (torchserve --start) uses TorchServe's defaults, and what "
            "follows is about those"
        )
        yield Finding(WARNING, what, str(folder), "`torchmar serve` uses its own, which is hardened")
    elif not troubles:
        yield Finding(OK, "the configuration has no known weakness", str(file))
    yield from troubles


def _read_otherwise(config: ServerConfig, file: Path) -> Iterator[Finding]:
    if config.misread:
        remedy = (
            "save it in ASCII, without a mark, each setting as KEY=VALUE on one line; "
            "`torchmar serve` gives TorchServe a corrected copy"
        )
        yield Finding(WARNING, f"this file {config.misread}", str(file), remedy)


def _values(config: ServerConfig) -> Iterator[Finding]:
    for problem in unreadable(config):
        yield Finding(ERROR, problem.what, problem.where, problem.remedy)
    for problem in doubtful(config):
        yield Finding(WARNING, problem.what, problem.where, problem.remedy)
    if config.get("model_store").startswith("~"):
        what = f"model_store={config.get('model_store')}: TorchServe by itself looks for a folder named ~"
        yield Finding(WARNING, what, "model_store", "write the whole path; `torchmar serve` does")
    for name, version, one in _models(config):
        for what in slow_batches(one):
            yield Finding(WARNING, f"models: {name} {version}: {what}", "models", "10 ms and less are enough")


def _models(config: ServerConfig) -> Iterator[tuple[str, str, dict[str, object]]]:
    """Return the settings of each version in `models`."""
    try:
        models = json.loads(config.get("models") or "{}")
    except (ValueError, RecursionError):
        return
    for name, versions in models.items() if isinstance(models, dict) else ():
        for version, one in versions.items() if isinstance(versions, dict) else ():
            if isinstance(one, dict):
                yield name, version, one


def beside(folder: Path) -> Iterator[Finding]:
    """Check log4j2.system.properties, which is read like config.properties."""
    file = folder / _LOG_PROPERTIES
    try:
        config = load_config(file)
    except FileNotFoundError:
        return
    except ServerError as error:
        yield Finding(WARNING, str(error), str(file), "correct it, or remove it")
        return
    yield from _read_otherwise(config, file)


def _weaknesses(config: ServerConfig, folder: Path) -> Iterator[Finding]:
    for setting, is_weak, what, remedy in _WEAK:
        if is_weak(config):
            yield Finding(WARNING, what, setting, remedy)
    if (os.cpu_count() or 1) <= 2 and not _has_thread_pool(config, folder):
        what = "Java starts a thread for every batch: with 2 processors its common pool has none"
        remedy = f"vmargs=-D{_PARALLELISM}=16, or beside it a log4j2.system.properties with the same"
        yield Finding(WARNING, what, "vmargs", remedy)
    wrong = {problem.where for problem in unreadable(config)}
    for key in {"inference_address", "management_address", "metrics_address"} - wrong:
        address = urlsplit(config.get(key))
        here = address.scheme == "unix" or address.hostname in {"127.0.0.1", "localhost", "::1"}
        if not here and address.scheme != "https":
            what = f"{config.get(key)} is reachable from other machines, without TLS"
            yield Finding(WARNING, what, key, "bind to 127.0.0.1 and put a TLS proxy in front")


_LOG_PROPERTIES = "log4j2.system.properties"
_PARALLELISM = "java.util.concurrent.ForkJoinPool.common.parallelism"


def _has_thread_pool(config: ServerConfig, folder: Path) -> bool:
    """Return whether the JVM's options, or a file that log4j reads in the server's folder, set it."""
    if _PARALLELISM in config.get("vmargs") or config.path is None:
        return True
    try:
        text = (folder / _LOG_PROPERTIES).read_text(encoding="latin-1")
    except OSError:
        return False
    return _PARALLELISM in parse_properties(text)
