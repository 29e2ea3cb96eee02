"""Starting real TorchServe servers: each in its own folder, on free ports of 127.0.0.1."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import zipfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from torchmar.archive import SITECUSTOMIZE
from torchmar.client import KeyFile, NoTokens, Server, Timeouts, connect
from torchmar.errors import ServerNotStarted, WorkersNotReady
from torchmar.server import (
    RunningServer,
    ServerConfig,
    WorkerLog,
    free_ports,
    parse_properties,
    read_config,
    start,
    stop,
)

ROOT = Path(__file__).resolve().parent.parent.parent


class Live:
    """A running server, its model store and its clients."""

    def __init__(
        self, running: RunningServer, store: Path, clients: Server, restarted: Callable[[], Live]
    ) -> None:
        self.running = running
        self.store = store
        self.clients = clients
        self.restarted = restarted  # a new server in its folder and on its ports, once it has ended
        self.management = clients.management
        self.inference = clients.inference
        self.metrics = clients.metrics

    def put(self, archive: Path) -> str:
        """Put an archive into the store; its file name."""
        shutil.copyfile(archive, self.store / archive.name)
        return archive.name

    def stranger(self, name: str, handler: str, **options: Any) -> str:
        """Put an archive that torchmar did not build into the store; its file name."""
        return make_stranger(self.store, name, handler, **options).name

    def serve(self, archive: str, version: str = "1.0") -> str:
        """Register and wait until it is READY; the model's name."""
        name = archive.removesuffix(".mar").removesuffix(f"-{version}")
        self.management.register(archive, initial_workers=1)
        self.management.wait_until_ready(name, version)
        return name


def until_ready(live: Live, name: str) -> None:
    """Wait for the worker of a model that was killed, however often TorchServe has to start it."""
    deadline = time.monotonic() + 60
    while True:
        try:
            live.management.wait_until_ready(name, workers=1)
        except WorkersNotReady:
            assert time.monotonic() < deadline
        else:
            return


# What archives of torchmar's carry so that their workers start sooner, without torch.
STAND_IN = {
    name: (ROOT / name).read_bytes()
    for name in ("handlers/__init__.py", "handlers/worker/__init__.py", "handlers/worker/lazy_torch.py")
}
STAND_IN["sitecustomize.py"] = SITECUSTOMIZE.encode()


def make_stranger(
    store: Path,
    name: str,
    handler: str,
    *,
    version: str = "1.0",
    config: dict[str, Any] | None = None,
    plain: bool = False,
    files: Mapping[str, bytes] | None = None,
) -> Path:
    """A .mar as torch-model-archiver makes it, with one handler file; unless it is `plain`, with STAND_IN."""
    path = store / f"{name}-{version}.mar"
    model = {"modelName": name, "modelVersion": version, "handler": f"{name}_handler.py"}
    settings = {"maxRetryTimeoutInSec": 0, "responseTimeout": 20, **(config or {})}
    with zipfile.ZipFile(path, "w") as mar:
        manifest = {"runtime": "python", "model": {**model, "configFile": "model-config.yaml"}}
        mar.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        mar.writestr("model-config.yaml", yaml.safe_dump(settings))
        mar.writestr(f"{name}_handler.py", handler)
        for file, content in {**({} if plain else STAND_IN), **(files or {})}.items():
            mar.writestr(file, content)
    return path


StartServer = Callable[..., Live]


def starter(stack: ExitStack, factory: pytest.TempPathFactory) -> StartServer:
    """Starts servers that end with `stack`."""

    def launch(folder: Path, config: ServerConfig, ca_file: Path | None, timeout: float) -> Live:
        store = folder / "model_store"
        running = start(folder, store, config, environment=os.environ)
        stack.callback(stop, running, timeout=0)  # nobody asks it any more, and politely it takes 4 s
        tokens = NoTokens() if running.key_file is None else KeyFile(running.key_file)
        clients = connect(
            inference=running.config.inference,
            management=running.config.management,
            metrics=running.config.metrics,
            tokens=tokens,
            ca_file=ca_file,
            timeouts=Timeouts(read=timeout),
            reason=WorkerLog(running.logs).why_died,
        )
        stack.callback(clients.close)
        return Live(running, store, clients, lambda: launch(folder, config, ca_file, timeout))

    def start_server(
        *, settings: dict[str, str] | None = None, ca_file: Path | None = None, timeout: float = 30.0
    ) -> Live:
        folder = factory.mktemp("server")
        (folder / "model_store").mkdir()
        shipped = read_config(ROOT / "config.properties")
        # It lives for a minute: Java's second compiler would take processors, and pay nothing back.
        vmargs = f"{shipped.get('vmargs')} -XX:TieredStopAtLevel=1"
        wanted = shipped.with_settings({"vmargs": vmargs, **(settings or {})})
        while True:
            try:
                return launch(folder, free_ports(wanted), ca_file, timeout)
            except ServerNotStarted as error:
                if "in use by another program" not in str(error):
                    raise  # else a test beside this one was faster

    return start_server


def put_on_free_ports(file: Path) -> dict[str, str]:
    """Change only the ports in a config.properties, as a user would; its settings."""
    text = file.read_text()
    ports = free_ports(read_config(file)).settings
    for key in ("inference_address", "management_address", "metrics_address"):
        text = re.sub(rf"(?m)^{key}=.*$", f"{key}={ports[key]}", text)
    for key in ("grpc_inference_port", "grpc_management_port", "initial_worker_port"):
        text += f"{key}={ports[key]}\n"
    file.write_text(text)
    return parse_properties(text)
