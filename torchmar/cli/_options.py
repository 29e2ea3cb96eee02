"""Finds the server of a command: by options, by the environment, or by what runs or is configured here."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..connection import VARIABLES, Target
from ..release._options import Option
from ._output import print_note

if TYPE_CHECKING:
    from ..client import Server

_option = partial(typer.Option, rich_help_panel="Which server")

# Of commands that load an archive as a worker does.
PythonOption = Annotated[str | None, "The Python that runs the server's workers; by default this one."]
TimeoutOption = Annotated[float, Option("Seconds that loading the archive may take.", min=1)]


@dataclass(frozen=True)
class ServerOptions:
    """Holds the options of every command that talks to a server."""

    directory: Annotated[Path, _option("--dir", help="The folder that the server was started in.")] = Path()
    inference: Annotated[
        str | None,
        _option(help="Inference address, such as http://127.0.0.1:8080.", envvar=VARIABLES["inference"]),
    ] = None
    management: Annotated[str | None, _option(help="Management address.", envvar=VARIABLES["management"])] = (
        None
    )
    metrics: Annotated[str | None, _option(help="Metrics address.", envvar=VARIABLES["metrics"])] = None
    key_file: Annotated[
        Path | None,
        _option(help="The server's key_file.json, which holds its tokens.", envvar=VARIABLES["key_file"]),
    ] = None
    token_file: Annotated[
        Path | None,
        _option(
            help="File with one token for all calls, for a proxy in front of the server.",
            envvar=VARIABLES["token_file"],
        ),
    ] = None
    no_token: Annotated[bool, _option("--no-token", help="The server runs without tokens.")] = False
    ca_file: Annotated[
        Path | None,
        _option(help="PEM file with the certificates to trust.", envvar=VARIABLES["ca_file"]),
    ] = None
    timeout: Annotated[float, _option(help="Seconds to wait for a response.", min=0.1)] = 30.0

    def connect(self) -> Server:
        """Return clients of the server. Raises ClientError."""
        return Target(**{one.name: getattr(self, one.name) for one in fields(Target)}).connect(
            os.environ, print_note
        )
