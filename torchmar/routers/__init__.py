"""Routers in front of TorchServe: what sends a share of the requests to a candidate.

TorchServe itself cannot split traffic. A `Router` can: nginx.py has the one for nginx.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Share:
    """Describes how the requests for a model are split between two of its versions.

    `percent` (0 to 100) of the requests that name no version go to `candidate` on the server with the
    inference address `server` (http://HOST:PORT), the rest to version `default`. `response_timeout` in
    seconds is the longer one of both versions. `max_body` is the server's limit in bytes, None where it is
    not known.
    """

    model: str
    candidate: str
    percent: float
    default: str
    server: str
    response_timeout: int = 120
    max_body: int | None = None


@dataclass(frozen=True)
class Logged:
    """Counts what one version was asked.

    `errors` are requests that got no answer though they may have been good. `seconds` are the times of good
    answers, from connecting to the server until the whole answer was there.
    """

    requests: int = 0
    errors: int = 0
    seconds: tuple[float, ...] = ()


class Log(Protocol):
    """Reads what a router has sent since it was opened."""

    def read(self) -> Mapping[str | None, Logged]:
        """Return the figures so far by version; None is the default version. Raises ReleaseError."""


class Router(Protocol):
    """Splits the requests for a model between its versions."""

    def why_not(self, share: Share) -> str:
        """Return why this share cannot be set; '' where it can."""

    def set_share(self, share: Share) -> None:
        """Set a share. Raises ReleaseError, and the share of before stays."""

    def clear(self, model: str, candidate: str) -> bool:
        """Send no request to a candidate any more; return whether any may have gone there.

        Raises ReleaseError where the router could not be told: the candidate is still asked then.
        """

    def log(self, model: str) -> Log:
        """Open the log of what is sent from now on. Raises ReleaseError."""
