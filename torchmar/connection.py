"""Connect to a server as the command line does: by its folder, addresses, tokens, and the environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from .errors import ClientError, ServerError

if TYPE_CHECKING:
    from .client import Server, Tokens
    from .server import RunningServer, ServerConfig

VARIABLES = {
    name: f"TORCHMAR_{name.upper()}"
    for name in ("inference", "management", "metrics", "key_file", "token_file", "ca_file")
}
"""The variable of the environment for each field of a Target."""

TOKEN_VARIABLES = ("TORCHMAR_MANAGEMENT_TOKEN", "TORCHMAR_INFERENCE_TOKEN")
"""The variables with the tokens themselves, as a CI keeps secrets; a command line shows them to everybody."""


@dataclass(frozen=True)
class Target:
    """Names a server: by the folder that it was started in, or by addresses and tokens.

    Each field is an option of the command line, with this text as its help.
    """

    directory: Annotated[Path, "The folder that the server was started in."] = Path()
    inference: Annotated[str | None, "Inference address, such as http://127.0.0.1:8080."] = None
    management: Annotated[str | None, "Management address."] = None
    metrics: Annotated[str | None, "Metrics address."] = None
    key_file: Annotated[Path | None, "The server's key_file.json, which holds its tokens."] = None
    token_file: Annotated[
        Path | None, "File with one token for all calls, for a proxy in front of the server."
    ] = None
    no_token: Annotated[bool, "The server runs without tokens."] = False
    ca_file: Annotated[Path | None, "PEM file with the certificates to trust."] = None
    timeout: Annotated[float, "Seconds to wait for a response."] = 30.0

    def connect(
        self, environment: Mapping[str, str], on_note: Callable[[str], None] = lambda _text: None
    ) -> Server:
        """Return clients of the server; `on_note` hears of assumptions. Raises ClientError.

        Of the `environment` only TOKEN_VARIABLES count here.
        """
        from .client import Timeouts, connect, no_reason
        from .server import WorkerLog, died, find_running

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
        is_named = addresses or self.key_file or self.token_file or self.no_token
        if not is_named and not is_folder:
            raise ClientError(f"--dir {self.directory}: no such folder")
        dead = None if is_named or running is not None else died(self.directory)
        if dead is not None:  # its ports may be another server's by now
            raise ClientError(
                f"`torchmar serve` starts another TorchServe, and `torchmar reconcile` has it serve what was "
                f"released: the one of {self.directory.resolve()} (process {dead}) has ended without "
                "`torchmar stop`"
            )
        if running is None and not is_named and not has_keys:
            raise ClientError(
                f"no TorchServe that was started in {self.directory.resolve()} is running: `torchmar serve` "
                "starts one; for another, give --dir, or its addresses and --key-file"
            )
        if running is None and not is_named and config.path is None:
            on_note(
                f"{self.directory.resolve()} has no config.properties, and no server of it is\n"
                f"known: asking at TorchServe's own addresses, {config.inference} and so on"
            )
        log = WorkerLog(self.directory / "logs")
        return connect(
            inference=self.inference or (config.inference if here else None),
            management=self.management or (config.management if here else None),
            metrics=self.metrics or (config.metrics if here else None),
            tokens=self._tokens(running, environment),
            ca_file=self.ca_file,
            timeouts=Timeouts(read=self.timeout),
            reason=log.why_died if here else no_reason,
        )

    def _config(self, running: RunningServer | None) -> ServerConfig:
        """Return the configuration of the server that runs here, or of one that would be started."""
        from .server import config_or_defaults

        return config_or_defaults(self.directory / "config.properties") if running is None else running.config

    def _tokens(self, running: RunningServer | None, environment: Mapping[str, str]) -> Tokens:
        """Return the tokens that were given; else those of the server that was started here, for it alone.

        Raises ClientError for an address that may be another server's: it must not get this one's tokens.
        """
        from .client import KeyFile, NoTokens, StaticTokens, TokenFile

        if self.no_token:
            return NoTokens()
        if self.key_file is not None:
            return KeyFile(self.key_file)
        if self.token_file is not None:
            return TokenFile(self.token_file)
        management, inference = map(environment.get, TOKEN_VARIABLES)
        if management or inference:
            return StaticTokens(management=management, inference=inference)
        own = set() if running is None else {running.config.inference, running.config.management}
        for address in (self.inference, self.management):
            if address is not None and address.rstrip("/") not in own:
                raise ClientError(
                    f"{address}: give that server's key_file.json (--key-file, or `key_file:` in a file of "
                    f"hosts), its tokens ({', '.join(TOKEN_VARIABLES)}, or --token-file), or say that it "
                    "runs without (--no-token, or `no_token: true`). It is not the server that runs in "
                    f"{self.directory.resolve()}, which alone gets its tokens"
                )
        without = self._config(running).is_true("disable_token_authorization")
        return NoTokens() if without else KeyFile(self.directory / "key_file.json")


def connect(
    directory: str | Path = ".", *, environment: Mapping[str, str] | None = None, **given: Any
) -> Server:
    """Return clients of the server that was started in a folder, or that the environment names.

    `given` are fields of a Target. For those that are not given, the variables of VARIABLES in `environment`
    count (None: this process's), as for the commands. Raises ClientError.

        with connect() as server:
            server.inference.predict("mine", picture)
    """
    values = os.environ if environment is None else environment
    named = {name: values[variable] for name, variable in VARIABLES.items() if values.get(variable)}
    paths = {
        name: Path(value) for name, value in {**named, **given}.items() if name.endswith("_file") and value
    }
    return replace(Target(Path(directory)), **{**named, **given, **paths}).connect(values)
