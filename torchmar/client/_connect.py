"""The three clients of one server, put together."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

import requests

from ..errors import ClientError
from ..names import shown
from ._http import InferenceTransport, ManagementTransport, Timeouts, Transport
from ._inference import Inference
from ._management import Management, Reason, no_reason
from ._metrics import Metrics
from ._tokens import KeyFile, NoTokens, Tokens

DEFAULT_ADDRESSES = ("http://127.0.0.1:8080", "http://127.0.0.1:8081", "http://127.0.0.1:8082")


@dataclass(frozen=True)
class Server:
    """One server's three addresses. A context manager: it closes the connections.

    It may be used from many threads, and in forked processes, each of which makes connections of its own.
    """

    management: Management
    inference: Inference
    metrics: Metrics
    transports: tuple[Transport, ...]

    @property
    def answers(self) -> Counter[int]:
        """How many answers these clients got, by the first digit of their status."""
        return sum((transport.answers for transport in self.transports), Counter())

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections of this process; a call after that makes new ones."""
        for transport in self.transports:
            transport.close()


def connect(
    *,
    inference: str | None = None,
    management: str | None = None,
    metrics: str | None = None,
    tokens: Tokens | None = None,
    key_file: str | Path | None = None,
    ca_file: str | Path | None = None,
    timeouts: Timeouts = Timeouts(),  # noqa: B008 (frozen)
    reason: Reason = no_reason,
    split: Mapping[str, float] | None = None,
) -> Server:
    """Clients of the server at these addresses; nothing is sent yet.

    Without any address they are TorchServe's own on this machine. With some, those that are not given are
    not known: a call that needs one is an error, and no token is sent to a port that nobody named.
    `tokens`, or the path of TorchServe's key_file.json, or neither for a server without tokens. `ca_file`
    is a PEM file with the certificates to trust for https addresses. `reason` tells why a worker died,
    where that can be found out (`torchmar.server.WorkerLog` reads it from the server's log).
    `split` sends shares of the predictions to candidate versions, see Inference. Raises ClientError for what
    is no address.
    """
    if tokens is None:
        tokens = NoTokens() if key_file is None else KeyFile(key_file)
    if inference is None and management is None and metrics is None:
        inference, management, metrics = DEFAULT_ADDRESSES
    for address in (inference, management, metrics):
        if address is not None:
            _require_address(address)
    sessions = tuple(_session(ca_file) for _ in range(3))
    managing = ManagementTransport(management, sessions[0], tokens, "management", timeouts)
    inferring = InferenceTransport(inference, sessions[1], tokens, "inference", timeouts)
    inferring.management = managing
    scraping = Transport(metrics, sessions[2], NoTokens(), None, timeouts)
    manager = Management(managing, reason=reason)
    inference_client = Inference(inferring, manager, split=split)
    return Server(manager, inference_client, Metrics(scraping), (managing, inferring, scraping))


def _require_address(address: str) -> None:
    """Raise ClientError for what is no base URL. A password would replace the token; it is not told."""
    try:
        parts = urlsplit(address)
        good = parts.scheme in {"http", "https"} and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    else:
        if parts.username is not None or parts.password is not None:
            host = shown(parts.netloc.rpartition("@")[2])
            raise ClientError(f"an address with a user, …@{host}: leave it out, it would replace the token")
        good = good and not re.search("[?#]", address)  # also an empty query, into which every path would go
    if not good or not address.isprintable() or " " in address:
        raise ClientError(
            f"{shown(address, 200)}: expected an address that begins with http:// or https://, as http://HOST:PORT"
        )


def _session(ca_file: str | Path | None) -> requests.Session:
    session = requests.Session()
    # Proxies and .netrc of the environment are for the world outside; a .netrc entry would replace the token.
    session.trust_env = False
    if ca_file is not None:
        try:
            is_there = str(ca_file) != "" and Path(ca_file).exists()  # an empty one would trust everybody
        except OSError:
            is_there = False
        if not is_there:
            raise ClientError(f"{ca_file}: no such file, expected a PEM file with certificates to trust")
        session.verify = str(ca_file)
    return session
