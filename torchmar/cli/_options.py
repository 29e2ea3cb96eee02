"""Which server a command talks to: options, then the environment, then what runs or is configured here."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from ..client import Server

_PANEL = "Which server"

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True)
class ServerOptions:
    """The options that every command has which talks to a server."""

    directory: Annotated[
        Path,
        typer.Option("--dir", help="The folder that the server was started in.", rich_help_panel=_PANEL),
    ] = Path()
    inference: Annotated[
        str | None,
        typer.Option(
            help="Inference address, as http://127.0.0.1:8080.",
            envvar="TORCHMAR_INFERENCE",
            rich_help_panel=_PANEL,
        ),
    ] = None
    management: Annotated[
        str | None,
        typer.Option(help="Management address.", envvar="TORCHMAR_MANAGEMENT", rich_help_panel=_PANEL),
    ] = None
    metrics: Annotated[
        str | None,
        typer.Option(help="Metrics address.", envvar="TORCHMAR_METRICS", rich_help_panel=_PANEL),
    ] = None
    key_file: Annotated[
        Path | None,
        typer.Option(
            help="key_file.json of the server, with its tokens.",
            envvar="TORCHMAR_KEY_FILE",
            rich_help_panel=_PANEL,
        ),
    ] = None
    no_token: Annotated[
        bool,
        typer.Option("--no-token", help="The server runs without tokens.", rich_help_panel=_PANEL),
    ] = False
    ca_file: Annotated[
        Path | None,
        typer.Option(
            help="PEM file with the certificates to trust.", envvar="TORCHMAR_CA_FILE", rich_help_panel=_PANEL
        ),
    ] = None
    timeout: Annotated[
        float, typer.Option(help="Seconds to wait for an answer.", min=0.1, rich_help_panel=_PANEL)
    ] = 30.0

    def connect(self) -> Server:
        """Clients for the server that is meant."""
        from ..client import KeyFile, NoTokens, Timeouts, connect, no_reason
        from ..errors import ClientError, ServerError
        from ..server import WorkerLog, config_or_defaults, find_running

        try:
            running = find_running(self.directory)
        except ServerError:  # without psutil nothing can run here
            running = None
        file = self.directory / "config.properties"
        config = config_or_defaults(file) if running is None else running.config
        here = self.inference is None and self.management is None and self.metrics is None
        key_file = self.key_file or self.directory / "key_file.json"
        told = self.inference or self.management or self.metrics or self.key_file or self.no_token
        if running is None and not told and not key_file.exists():
            raise ClientError(
                f"no TorchServe that was started in {self.directory.resolve()} is running: `torchmar serve` "
                "starts one; for another, give --dir, or its addresses and --key-file"
            )
        without = self.no_token or (
            self.key_file is None and here and config.is_true("disable_token_authorization")
        )
        log = WorkerLog(self.directory / "logs")
        return connect(
            inference=self.inference or (config.inference if here else None),
            management=self.management or (config.management if here else None),
            metrics=self.metrics or (config.metrics if here else None),
            tokens=NoTokens() if without else KeyFile(key_file),
            ca_file=self.ca_file,
            timeouts=Timeouts(read=self.timeout),
            reason=log.why_died if here else no_reason,
        )


def with_server(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of ServerOptions in place of its parameter `server`."""
    hints = get_type_hints(command, include_extras=True)
    option_hints = get_type_hints(ServerOptions, include_extras=True)
    own = [
        parameter.replace(annotation=hints[name])
        for name, parameter in inspect.signature(command).parameters.items()
        if name != "server"
    ]
    options = [
        inspect.Parameter(
            item.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=item.default,
            annotation=option_hints[item.name],
        )
        for item in fields(ServerOptions)
    ]

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        server = ServerOptions(**{option.name: arguments.pop(option.name) for option in options})
        command(server=server, **arguments)

    own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    run.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
    # typer resolves annotations by name and would follow __wrapped__ back to the original.
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *options]}
    del run.__wrapped__
    return run
