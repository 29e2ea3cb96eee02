"""Connect to a server: one call makes its three clients."""

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
    """Holds one server's three clients; as a context manager it closes their connections.

    Threads may share it. So may forked processes: each makes its own connections.
    """

    management: Management
    inference: Inference
    metrics: Metrics
    transports: tuple[Transport, ...]

    @property
    def answers(self) -> Counter[int]:
        """Return how many responses these clients got, by the first digit of the status."""
        return sum((transport.answers for transport in self.transports), Counter())

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close this process's connections. A later call opens new ones."""
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
    """Return clients of the server at these addresses. Sends nothing yet.

    Without any address, the clients use TorchServe's default ports on this machine. With some addresses, the
    others stay unset: a call that needs one raises ClientError, so no token reaches a port that nobody named.

    Give `tokens`, or the path of TorchServe's key_file.json, or neither for a server without tokens.
    `ca_file` is a PEM file with the certificates to trust for https addresses. `reason` returns why a worker
    died; `torchmar.server.WorkerLog` reads that from the server's log. `split` sends shares of the
    predictions to candidate versions, see Inference. Raises ClientError for an invalid address.
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
    """Raise ClientError for an invalid base URL.

    A password in it would replace the token, so it is refused; the message omits it.
    """
    try:
        parts = urlsplit(address)
        good = parts.scheme in {"http", "https"} and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    else:
        if parts.username is not None or parts.password is not None:
            host = shown(parts.netloc.rpartition("@")[2])
            raise ClientError(f"an address with a user, …@{host}: leave it out, it would replace the token")
        # an empty query counts too: it would swallow every path
        good = good and not re.search("[?#]", address)
    if not good or not address.isprintable() or " " in address:
        raise ClientError(
            f"{shown(address, 200)}: expected an address that begins with http:// or https://, as http://HOST:PORT"
        )


def _session(ca_file: str | Path | None) -> requests.Session:
    session = requests.Session()
    # Ignore the environment's proxies and .netrc: a .netrc entry would replace the token.
    session.trust_env = False
    if ca_file is not None:
        try:
            # requests takes an empty path for "verify nothing"
            is_there = str(ca_file) != "" and Path(ca_file).exists()
        except OSError:
            is_there = False
        if not is_there:
            raise ClientError(f"{ca_file}: no such file, expected a PEM file with certificates to trust")
        session.verify = str(ca_file)
    return session
