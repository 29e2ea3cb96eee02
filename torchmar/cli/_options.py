"""Which server a command talks to: options, then the environment, then what runs or is configured here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ClientError, ServerError
from ..release._options import Option
from ._output import err, escape

if TYPE_CHECKING:
    from ..client import Server, Tokens
    from ..server import RunningServer, ServerConfig

_option = partial(typer.Option, rich_help_panel="Which server")

TOKEN_VARIABLES = ("TORCHMAR_MANAGEMENT_TOKEN", "TORCHMAR_INFERENCE_TOKEN")
"""Where tokens themselves may be, as a CI keeps its secrets; a command line shows them to everybody."""

# Of commands that load an archive as a worker does.
PythonOption = Annotated[str | None, "The Python that the server runs workers with, where not this one."]
TimeoutOption = Annotated[float, Option("Seconds that loading may take.", min=1)]


@dataclass(frozen=True)
class ServerOptions:
    """The options that every command has which talks to a server."""

    directory: Annotated[Path, _option("--dir", help="The folder that the server was started in.")] = Path()
    inference: Annotated[
        str | None, _option(help="Inference address, as http://127.0.0.1:8080.", envvar="TORCHMAR_INFERENCE")
    ] = None
    management: Annotated[str | None, _option(help="Management address.", envvar="TORCHMAR_MANAGEMENT")] = (
        None
    )
    metrics: Annotated[str | None, _option(help="Metrics address.", envvar="TORCHMAR_METRICS")] = None
    key_file: Annotated[
        Path | None,
        _option(help="key_file.json of the server, with its tokens.", envvar="TORCHMAR_KEY_FILE"),
    ] = None
    token_file: Annotated[
        Path | None,
        _option(
            help="File with one token for all calls, as a proxy in front asks for.",
            envvar="TORCHMAR_TOKEN_FILE",
        ),
    ] = None
    no_token: Annotated[bool, _option("--no-token", help="The server runs without tokens.")] = False
    ca_file: Annotated[
        Path | None,
        _option(help="PEM file with the certificates to trust.", envvar="TORCHMAR_CA_FILE"),
    ] = None
    timeout: Annotated[float, _option(help="Seconds to wait for an answer.", min=0.1)] = 30.0

    def connect(self) -> Server:
        """Clients for the server that is meant."""
        from ..client import Timeouts, connect, no_reason
        from ..server import WorkerLog, died, find_running

        try:
            running = find_running(self.directory)
        except ServerError:  # without psutil nothing can run here
            running = None
        key_file = self.directory / "key_file.json"
        try:
            config = self._config(running)
            is_folder, has_keys = self.directory.is_dir(), key_file.exists()
        except OSError as error:  # somebody else's, or a name that is too long
            raise ClientError(f"--dir {self.directory}: {error.strerror}") from None
        here = self.inference is None and self.management is None and self.metrics is None
        addresses = self.inference or self.management or self.metrics
        told = addresses or self.key_file or self.token_file or self.no_token
        if not told and not is_folder:
            raise ClientError(f"--dir {self.directory}: no such folder")
        dead = None if told or running is not None else died(self.directory)
        if dead is not None:  # its ports may be another server's by now
            raise ClientError(
                f"`torchmar serve` starts another TorchServe, and `torchmar reconcile` has it serve what was "
                f"released: the one of {self.directory.resolve()} (process {dead}) has ended without "
                "`torchmar stop`"
            )
        if running is None and not told and not has_keys:
            raise ClientError(
                f"no TorchServe that was started in {self.directory.resolve()} is running: `torchmar serve` "
                "starts one; for another, give --dir, or its addresses and --key-file"
            )
        if running is None and not told and config.path is None:
            err.print(
                f"note: {escape(self.directory.resolve())} has no config.properties, and no server of it is\n"
                f"known: asking at TorchServe's own addresses, {config.inference} and so on",
                style="yellow",
            )
        log = WorkerLog(self.directory / "logs")
        return connect(
            inference=self.inference or (config.inference if here else None),
            management=self.management or (config.management if here else None),
            metrics=self.metrics or (config.metrics if here else None),
            tokens=self._tokens(running),
            ca_file=self.ca_file,
            timeouts=Timeouts(read=self.timeout),
            reason=log.why_died if here else no_reason,
        )

    def _config(self, running: RunningServer | None) -> ServerConfig:
        """That of the server that was started here, or that one would be started with."""
        from ..server import config_or_defaults

        return config_or_defaults(self.directory / "config.properties") if running is None else running.config

    def _tokens(self, running: RunningServer | None) -> Tokens:
        """Those that were given; else those of the server that was started here, and for it alone.

        Raises ClientError where an address is given that may be another server's: its tokens are others, and
        those of this one would be told to whoever listens there.
        """
        from ..client import KeyFile, NoTokens, StaticTokens, TokenFile

        if self.no_token:
            return NoTokens()
        if self.key_file is not None:
            return KeyFile(self.key_file)
        if self.token_file is not None:
            return TokenFile(self.token_file)
        management, inference = map(os.environ.get, TOKEN_VARIABLES)
        if management or inference:
            return StaticTokens(management=management, inference=inference)
        own = set() if running is None else {running.config.inference, running.config.management}
        for address in (self.inference, self.management):
            if address is not None and address.rstrip("/") not in own:
                raise ClientError(
                    f"{address}: give that server's key_file.json (--key-file, or `key_file:` in a file of "
                    f"hosts), its tokens ({', '.join(TOKEN_VARIABLES)}, or --token-file), or say that it "
                    "runs without (--no-token, or `no_token: true`). It is not the server that runs in "
                    f"{self.directory.resolve()}, whose tokens are told to no other"
                )
        without = self._config(running).is_true("disable_token_authorization")
        return NoTokens() if without else KeyFile(self.directory / "key_file.json")
