"""Make one HTTP call: send the token, apply the timeout, and raise an error for every failure."""

from __future__ import annotations

import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from urllib3.exceptions import HTTPError

from ..errors import ClientError, ConnectionFailed, NotAllowed, TimedOut, UnmanageableName
from ..names import unsayable
from ._answers import bad_answer, one_line, refuses_key, wants_tls
from ._fork import ForkLock, renew_connections
from ._tokens import Kind, Tokens

_REFUSALS = 5  # of one call, each with another key: so many clients may renew one key file at once
_RENEWAL = "/token"  # the path of TorchServe's token API
_SPEAKS_TLS = "the server speaks https there: say https:// in its address"
IN_PARTS = "ts_stream_next"  # TorchServe sends this header with responses in parts, and with no others
# The other API of each, and a path that succeeds with that API's key.
_OTHER: Mapping[Kind, tuple[Kind, str]] = {
    "management": ("inference", "/ping"),
    "inference": ("management", "/models"),
}
_RENEWAL_WAIT = 0.2  # seconds at most; TorchServe needs a hundredth to renew a key and write the file


@dataclass(frozen=True)
class Timeouts:
    """Holds the seconds, above 0, for a connection and for a response's bytes. Raises ClientError."""

    connect: float = 5.0
    read: float = 30.0

    def __post_init__(self) -> None:
        require_seconds("the timeout for a connection", self.connect)
        require_seconds("the timeout", self.read)


def require_seconds(what: str, value: float) -> None:
    """Raise ClientError if no socket can wait that long: the time is not above 0, or too large."""
    if not isinstance(value, int | float) or not 0 < value <= threading.TIMEOUT_MAX:
        raise ClientError(f"{what}: found {value!r}, expected seconds, more than 0")


class Transport:
    """Calls one of the server's addresses over one session."""

    def __init__(
        self,
        address: str | None,
        session: requests.Session,
        tokens: Tokens,
        kind: Kind | None,
        timeouts: Timeouts,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._address = None if address is None else address.rstrip("/")
        self.tokens = tokens
        self._session = session
        self._kind = kind
        self._timeouts = timeouts
        self._sleep = sleep
        self._trusts_clock = True
        self._in_vain: dict[Kind, str | None] = {}
        self._answers: Counter[int] = Counter()
        self._lock = ForkLock(lambda: renew_connections(session))
        self._renewing = ForkLock()

    @property
    def answers(self) -> Counter[int]:
        """Return how many responses came, by the first digit of the status."""
        with self._lock.held():
            return Counter(self._answers)

    @property
    def address(self) -> str:
        """Return the base URL. Raises ClientError if none was given."""
        if self._address is None:
            name = type(self).__name__.removesuffix("Transport").lower() or "metrics"
            raise ClientError(f"this needs the server's {name} address, which was not given")
        return self._address

    def close(self) -> None:
        """Close the connections."""
        with self._lock.held():
            self._session.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        stream: bool = False,
        **body: Any,
    ) -> requests.Response:
        """Send one request and return a successful response. Renews a token once if it expired or is refused.

        `body` holds requests' `data`, `files` or `json`. `timeout` replaces the read timeout. With `stream`,
        the caller reads the content by `parts`.
        """
        kind = self._kind
        where = f"{method} {self.address}{path}"
        if kind is not None and self._trusts_clock and self.tokens.expired(kind):
            self._renew(kind, self.tokens.token(kind))
            # If the new key looks expired too, this machine's clock is ahead of the server's.
            self._trusts_clock = not self.tokens.expired(kind)
        token = None if kind is None else self.tokens.token(kind)
        response = self._send(method, path, params, timeout, token, body, stream=stream)
        for _ in range(_REFUSALS):
            if kind is None or not refuses_key(response) or not self._another_token(kind, token):
                break
            token = self.tokens.token(kind)
            response = self._send(method, path, params, timeout, token, body, stream=stream)
        if response.status_code < 300:
            return response
        if wants_tls(response):
            raise ConnectionFailed(f"{where}: {_SPEAKS_TLS}")
        error = bad_answer(response, where)
        if kind is not None and refuses_key(response):
            text = self._why_refused(str(error), kind, token)
            raise NotAllowed(text, status=error.status, body=error.body)
        raise error

    def _why_refused(self, text: str, kind: Kind, token: str | None) -> str:
        """Explain why the server refuses a token, beyond TorchServe's own message."""
        if self._takes_the_other(kind):
            other = _OTHER[kind][0]
            return f"give the server's {kind} address: {self.address} is its {other} address ({text})"
        if kind in self._in_vain and token == self._in_vain[kind]:
            return (
                f"{text}. The server has made a new one, and here the old one is given still: is the key "
                "file a copy? Read the server's own"
            )
        if self.tokens.expired(kind):
            return (
                f"{text}. This one has expired, and could not be renewed: read the server's own key file, "
                "fetch it again, or start the server with a longer token_expiration_min"
            )
        return text

    def _takes_the_other(self, kind: Kind) -> bool:
        """Return whether this address belongs to the other API, so that the caller swapped the two."""
        if kind not in _OTHER:
            return False
        other, path = _OTHER[kind]
        with suppress(ClientError):  # the key is missing, or the server no longer answers
            token = self.tokens.token(other)
            return token is not None and self._send("GET", path, None, None, token, {}).status_code < 300
        return False

    def _another_token(self, kind: Kind, token: str | None) -> bool:
        """Return whether a refused token has a successor: in the file already, or after a renewal."""
        if not self.tokens.refused(kind, token):
            self._renew(kind, token)  # this machine's clock may be behind the server's
        return self.tokens.refused(kind, token)

    def _renew(self, kind: Kind, token: str | None) -> None:
        """Renew `token`, unless another thread or another client of the same key file has done so.

        A renewal voids the key that other clients just got, so each client waits a random moment and looks
        again. A copy of the key file keeps the old key. A client of such a copy must not renew with every
        call: each time it would void the key of all others.
        """
        with self._renewing.held():
            if self.tokens.refused(kind, token):
                return
            if kind in self._in_vain and token == self._in_vain[kind]:
                return
            # The system's random numbers: forked children would share any other generator and wait equally
            # long.
            self._sleep(random.SystemRandom().uniform(0, _RENEWAL_WAIT))
            if self.tokens.refused(kind, token):
                return
            if self.renew(kind) and not self.tokens.refused(kind, token):
                self._in_vain[kind] = token

    def renew(self, kind: Kind) -> bool:
        """Ask the server for a new key in its key file, with the API key. Returns whether it succeeded."""
        raise NotImplementedError

    def _send(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any] | None,
        timeout: float | None,
        token: str | None,
        body: Mapping[str, Any],
        *,
        stream: bool = False,
    ) -> requests.Response:
        if token is not None and not re.fullmatch(r"[!-~]+", token):
            raise ClientError(
                f"the token for {self.address} holds a space, a line end or another character "
                "that no token has"
            )
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        headers.update(body.get("headers") or {})
        rest = {key: value for key, value in body.items() if key != "headers"}
        read = self._timeouts.read if timeout is None else timeout
        require_seconds("the timeout", read)
        if "/token" in path and path != _RENEWAL:
            rest["auth"] = _unlike_the_token_api
        where = f"{method} {self.address}{path}"
        with self._lock.held():  # a forked child makes its own connections here
            session = self._session
        begin = time.perf_counter()
        try:
            response = session.request(
                method,
                self.address + path,
                params=None if params is None else {k: _text(v) for k, v in params.items() if v is not None},
                headers=headers,
                timeout=(self._timeouts.connect, read),
                allow_redirects=False,
                stream=stream,
                **rest,
            )
            if response.status_code >= 300:
                _ = response.content  # read the error's body now, not as a stream
        except (requests.RequestException, HTTPError, ValueError) as error:
            raise self._no_answer(error, where, read) from None
        # requests measures until the headers; a handler may send its response in parts.
        response.elapsed = timedelta(seconds=time.perf_counter() - begin)
        with self._lock.held():  # threads may share one client
            self._answers[response.status_code // 100] += 1
        return response

    def parts(self, response: requests.Response, where: str, timeout: float | None) -> Iterator[bytes]:
        """Yield the response's parts as they arrive; a response that is not in parts yields its content.

        `timeout` in seconds applies to each part. Raises TimedOut.
        """
        read = self._timeouts.read if timeout is None else timeout
        count = 0
        try:
            for part in response.iter_content(None):
                yield part
                count += 1
        except (requests.RequestException, HTTPError, ValueError) as error:
            if IN_PARTS not in response.headers:
                raise self._no_answer(error, where, read) from None
            came = f"{count} part{'' if count == 1 else 's'}"
            if "Read timed out" in str(error):
                hint = f"no more came within {read:g} s; the server may still be working on it"
            else:
                hint = (
                    "its worker died, took longer than responseTimeout for the next one, or failed with all "
                )
                hint += "of its batch; the reason is in the server's model_log.log"
            raise TimedOut(f"{where}: the answer broke off after {came}: {hint}") from None

    def _no_answer(self, error: Exception, where: str, read: float) -> ClientError:  # noqa: PLR0911 (one for each)
        """Return the error for a call that ended without a response."""
        cause = one_line(_cause(error))
        no_tls = isinstance(error, requests.exceptions.SSLError)
        if no_tls or isinstance(error, requests.ConnectTimeout):
            hint = self._why_no_tls(cause) if no_tls else ""
            return ConnectionFailed(f"{where}: no connection: {cause}{hint}")
        if isinstance(error, requests.Timeout):
            return TimedOut(f"{where}: no answer within {read:g} s; the server may still be working on it")
        if not isinstance(error, requests.ConnectionError | requests.exceptions.ChunkedEncodingError):
            return ClientError(f"{where}: {one_line(str(error))}")
        if "NameResolutionError" in repr(error):
            return ConnectionFailed(f"{where}: correct the host name in the address: it is unknown: {cause}")
        if _refused(error):
            return ConnectionFailed(f"{where}: nothing listens there: {cause}; is the server started?")
        if r"\x15\x03" in repr(error):  # a TLS alert instead of an HTTP status line
            return ConnectionFailed(f"{where}: {_SPEAKS_TLS}")
        return TimedOut(f"{where}: the connection broke before an answer came: {cause}")

    def _why_no_tls(self, cause: str) -> str:
        """Return the remedy for a TLS failure, to follow its cause in OpenSSL's words."""
        if not re.search("certificate|X509", cause, re.IGNORECASE):
            return ". If the server speaks http there, say http:// in its address"
        trusted = self._session.verify
        if "X509" in cause:  # OpenSSL says this of the file alone
            return f". {trusted} holds none: expected a PEM file, with -----BEGIN CERTIFICATE----- in it"
        if isinstance(trusted, str):
            return f". The certificates to trust are those of {trusted}"
        return ". If its authority is your own, give a file of certificates to trust (ca_file, --ca-file)"


class ManagementTransport(Transport):
    """Calls the management address, which also renews the keys of both APIs."""

    def renew(self, kind: Kind) -> bool:
        """GET /token with the API key. The response is empty; the key file holds the new key."""
        if self._address is None:
            return False  # the caller then reports the refusal
        try:
            key = self.tokens.token("API")
        except ClientError:  # the file holds no API key: its owner does not let clients renew
            return False
        if key is None:
            return False
        # The next call reads the token from the file again.
        return self._send("GET", _RENEWAL, {"type": kind}, None, key, {}).status_code < 300


class InferenceTransport(Transport):
    """Calls the inference address. Renews keys through the management address, if there is one."""

    management: ManagementTransport | None = None

    def renew(self, kind: Kind) -> bool:
        """Renew through the management address."""
        return self.management is not None and self.management.renew(kind)


def path_of(*parts: str) -> str:
    """Return a path with every part quoted.

    Raises UnmanageableName for a part that TorchServe would misread.
    """
    for part in parts:
        if not isinstance(part, str):
            raise ClientError(f"{part!r} cannot be a model's name or version: expected text")
        problem = unsayable(part)
        if problem is not None:
            raise UnmanageableName(
                f"{problem}: it cannot be a model's name or version. Where a model is registered so, only a "
                "restart of TorchServe removes it"
            )
    return "/" + "/".join(quote(part, safe="") for part in parts)


def _unlike_the_token_api(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Quote the t of /tokenizer: TorchServe takes a management path with "/token" for its token API.

    It would then want another key. It searches the raw text and decodes the path only later. (requests itself
    quotes no letters.)
    """
    url = urlsplit(request.url or "")
    request.url = url._replace(path=url.path.replace("/token", "/%74oken")).geturl()
    return request


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _refused(error: Exception) -> bool:
    return "NewConnectionError" in repr(error)


def _cause(error: Exception) -> str:
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return re.sub(r"^(?:<.*?>|HTTPS?Connection(?:Pool)?\(.*?\)): ", "", str(reason or error))
