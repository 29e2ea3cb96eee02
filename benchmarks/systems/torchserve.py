"""Launches TorchServe 0.12, as shipped and as torchmar runs it.

torchmar.server starts both with TorchServe's own launcher, each in its own folder and temporary folder; they
differ in configuration, environment and archive.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from torchmar.client import KeyFile, Server, connect
from torchmar.errors import TorchmarError
from torchmar.server import RunningServer, ServerConfig, WorkerLog, free_ports, read_config, start, stop

from .base import ROOT, Endpoint, Failed, System


class Variant(Protocol):
    """Describes a change of torchmar's configuration."""

    def changed(self, config: ServerConfig) -> ServerConfig:
        """Return the changed configuration."""
        ...

    def prepare(self, folder: Path) -> None:
        """Put files into the server's folder before its start."""
        ...


@dataclass(frozen=True)
class Installation:
    """Names a TorchServe: torchmar's configuration in this environment, or the stock one in its own.

    `environment` is added to this process's; `variant` changes torchmar's configuration.
    """

    python: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    variant: Variant | None = None

    def config(self, settings: Mapping[str, str]) -> ServerConfig:
        """Return settings with free ports: TorchServe's defaults without tokens, or the checkout's file."""
        if self.python is None:
            config = read_config(ROOT / "config.properties")
            return free_ports(config if self.variant is None else self.variant.changed(config))
        return free_ports(ServerConfig(None, {"disable_token_authorization": "true", **settings}))

    @contextmanager
    def running(
        self, folder: Path, store: Path, settings: Mapping[str, str] | None = None
    ) -> Iterator[RunningServer]:
        """Run a server in `folder`; `settings` are added to the stock configuration. Raises Failed."""
        if self.variant is not None:
            self.variant.prepare(folder)
        try:
            server = start(
                folder,
                store,
                self.config(settings or {}),
                environment={**os.environ, **self.environment},
                python=sys.executable if self.python is None else str(self.python),
            )
        except TorchmarError as error:
            raise Failed(str(error)) from error
        try:
            yield server
        except TorchmarError as error:
            raise Failed(str(error), server.logs / "model_log.log") from error
        finally:
            stop(server)


OURS = Installation()


def stock(name: str, runtime: str, installation: Installation, archive: Path, model: str) -> System:
    """Return stock with the model loaded at start: a worker for each CPU, with torch's number of threads."""

    @contextmanager
    def launch(folder: Path) -> Iterator[Endpoint]:
        with installation.running(
            folder, archive.parent, {"load_models": f"{model}={archive.name}"}
        ) as server:
            yield endpoint(server, model)

    return System(name, runtime, launch)


def ours(
    name: str, runtime: str, archive: Path, model: str, version: str, installation: Installation = OURS
) -> System:
    """Return torchmar's server; its client registers the archive, and config.properties decides on tokens."""

    @contextmanager
    def launch(folder: Path) -> Iterator[Endpoint]:
        with installation.running(folder, archive.parent) as server:
            with clients(server) as connected:
                connected.management.register(archive.name)
                connected.management.wait_until_ready(model, version)
            yield endpoint(server, model)

    return System(name, runtime, launch)


def clients(server: RunningServer) -> Server:
    """Connect clients to a server, with the reasons of its log."""
    return connect(
        inference=server.config.inference,
        management=server.config.management,
        key_file=server.key_file,
        reason=WorkerLog(server.logs).why_died,
    )


def endpoint(server: RunningServer, model: str) -> Endpoint:
    """Return the endpoint of a model, with the token."""
    port = urlsplit(server.config.inference).port
    assert port is not None
    headers = {}
    if server.key_file is not None:
        headers = {"Authorization": f"Bearer {KeyFile(server.key_file).token('inference')}"}
    return Endpoint(server.pid, port, f"/predictions/{model}", server.logs / "model_log.log", headers)
