"""Run all checks, one after another."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from ..errors import ServerError
from ..server import RunningServer, ServerConfig, find_running, load_config
from ..worker import Check, check_archive
from . import _configuration, _machine, _serving, _store
from ._findings import ERROR, OK, Finding, apart, failed


def examine(
    folder: Path,
    model_store: Path | None,
    environment: Mapping[str, str],
    *,
    load: bool | None = None,
    check: Callable[[Path], Check] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Iterator[Finding]:
    """Check everything. The default `model_store` is the configuration's.

    For a server that runs here, it uses the server's own configuration, and loads archives with its Python.

    With `load`, it loads each archive in the store, which runs its code; by default, only those that claim to
    be built by torchmar. A check that fails adds a finding; the others continue.
    """
    file = folder / "config.properties"
    config, is_read = ServerConfig(None, {}), True
    try:
        config = load_config(file).resolved(environment)
    except FileNotFoundError:
        pass
    except ServerError as error:
        is_read = False
        yield Finding(ERROR, str(error), str(file), "correct it, or remove it")
    running: RunningServer | None = None
    try:
        if importlib.util.find_spec("psutil") is not None:
            running = find_running(folder)
    except Exception as error:  # whatever it is, the report continues
        yield failed("whether a server runs here", error, where=str(folder))
    if running is not None:
        config, is_read = running.config, True
    progress("Java")
    yield from apart("Java", partial(_machine.java, environment))
    progress("packages")
    yield from apart("the packages", _machine.packages)
    yield from apart("the environment", partial(_machine.environment, environment))
    if running is not None:
        yield Finding(OK, f"TorchServe runs: process {running.pid}, {running.config.inference}", str(folder))
        yield from apart("what it serves", partial(_serving.findings, running, environment))
    else:
        yield from apart("the server of before", partial(_serving.ended, folder))
        yield from apart("the ports", partial(_machine.ports, config))
        yield from apart("what others have left", partial(_machine.leftovers, folder))
    yield from apart("the folder", partial(_machine.writable, folder), where=str(folder))
    yield from apart("the temporary folder", partial(_machine.temporary, environment, running))
    if is_read:
        yield from apart(
            "the configuration", partial(_configuration.findings, config, folder), where=str(file)
        )
    yield from apart("the log4j2 files", partial(_configuration.beside, folder), where=str(folder))

    def archives() -> Iterator[Finding]:
        store = model_store or (None if running is None else running.model_store) or config.store(folder)
        unpacks_into = _machine.unpacks_into(environment, running)
        python = sys.executable if running is None else running.python
        look = check or partial(check_archive, python=python)
        yield from _store.findings(store, unpacks_into, load=load, check=look, progress=progress)

    yield from apart("the model store", archives, where=str(model_store or ""))
