"""One HTTP call: token, timeout, and an error from the tree for whatever is not success."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import requests

from ..errors import (
    AlreadyRegistered,
    ArchiveNotInStore,
    BadAnswer,
    ClientError,
    ConnectionFailed,
    HandlerFailed,
    HandlerRefused,
    InvalidRequest,
    IsDefaultVersion,
    ModelNotFound,
    NotAllowed,
    NotFound,
    OutOfResources,
    ServerFailed,
    TimedOut,
    Unavailable,
    WorkerDied,
)
from ._tokens import Kind, Tokens

# What is nested too deep for the parser is no answer of TorchServe, either.
_NOT_JSON = (ValueError, RecursionError)


@dataclass(frozen=True)
class Timeouts:
    """Seconds: to make a connection, and to wait for bytes of an answer."""

    connect: float = 5.0
    read: float = 30.0


class Transport:
    """Calls to one of the server's addresses, over one session."""

    def __init__(
        self,
        address: str | None,
        session: requests.Session,
        tokens: Tokens,
        kind: Kind | None,
        timeouts: Timeouts,
    ) -> None:
        self._address = None if address is None else address.rstrip("/")
        self.tokens = tokens
        self._session = session
        self._kind = kind
        self._timeouts = timeouts
        self._renewed: dict[Kind, str | None] = {}
        self._in_vain: dict[Kind, str | None] = {}
        self._answers: Counter[int] = Counter()
        self._lock = threading.Lock()

    @property
    def answers(self) -> Counter[int]:
        """How many answers came, by the first digit of their status."""
        with self._lock:
            return Counter(self._answers)

    @property
    def address(self) -> str:
        """The base URL. Raises ClientError where none was given."""
        if self._address is None:
            name = type(self).__name__.removesuffix("Transport").lower() or "metrics"
            raise ClientError(f"this needs the server's {name} address, which was not given")
        return self._address

    def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        **body: Any,
    ) -> requests.Response:
        """A successful answer. A token that has expired, or is refused, is renewed once.

        `body` is what requests takes as `data`, `files` or `json`. `timeout` replaces the read timeout.
        """
        kind = self._kind
        where = f"{method} {self.address}{path}"
        if kind is not None and self._needs_renewal(kind):
            self._renewed[kind] = self._renew(kind, self.tokens.token(kind))
        token = None if kind is None else self.tokens.token(kind)
        response = self._send(method, path, params, timeout, token, body)
        failed = response.status_code >= 300  # what succeeded is not looked into: it may be megabytes
        if failed and kind is not None and self._another_token(kind, token, response):
            # There is another key in the file: the server was restarted, or someone renewed it.
            response = self._send(method, path, params, timeout, self.tokens.token(kind), body)
        if response.status_code < 300:
            return response
        error = bad_answer(response, where)
        if isinstance(error, NotAllowed) and kind in self._in_vain and token == self._in_vain[kind]:
            raise NotAllowed(
                f"{error}. The server has made a new one, and here the old one is given still: is the key "
                "file a copy? Read the server's own",
                status=error.status,
                body=error.body,
            )
        raise error

    def _needs_renewal(self, kind: Kind) -> bool:
        """Once for each key: if this machine's clock is ahead, a new one looks expired, too."""
        return self.tokens.expired(kind) and self.tokens.token(kind) != self._renewed.get(kind)

    def _another_token(self, kind: Kind, token: str | None, response: requests.Response) -> bool:
        """Whether a refused token has a successor: in the file already, or after renewing it."""
        own = _own_error(response)
        if own is None or own[0] != "InvalidKeyException":
            return False
        if not self.tokens.refused(kind, token):
            if token == self._in_vain.get(kind):
                return False
            self._renew(kind, token)  # this machine's clock may be behind the server's
        return self.tokens.refused(kind, token)

    def _renew(self, kind: Kind, token: str | None) -> str | None:
        """The token of now. A copy of the key file keeps the old one: who renewed it with every call would
        take the new one from all others, each time.
        """
        if self.renew(kind) and not self.tokens.refused(kind, token):
            self._in_vain[kind] = token
        return self.tokens.token(kind)

    def renew(self, kind: Kind) -> bool:
        """Have the server write a new key into its key file, with the API key; whether it did."""
        raise NotImplementedError

    def _send(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any] | None,
        timeout: float | None,
        token: str | None,
        body: Mapping[str, Any],
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
        where = f"{method} {self.address}{path}"
        begin = time.perf_counter()
        try:
            response = self._session.request(
                method,
                self.address + path,
                params=None if params is None else {k: _text(v) for k, v in params.items() if v is not None},
                headers=headers,
                timeout=(self._timeouts.connect, read),
                allow_redirects=False,
                **rest,
            )
        except (requests.ConnectTimeout, requests.exceptions.SSLError) as error:
            raise ConnectionFailed(f"{where}: no connection: {_cause(error)}") from error
        except requests.Timeout as error:
            raise TimedOut(f"{where}: no answer within {read:g} s; the server may still be at it") from error
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
            if _refused(error):
                raise ConnectionFailed(
                    f"{where}: nothing listens there: {_cause(error)}; is the server started?"
                ) from error
            raise TimedOut(f"{where}: the connection broke before an answer came: {_cause(error)}") from error
        except requests.RequestException as error:
            raise ClientError(f"{where}: {error}") from error
        # What requests has measured ends with the headers; a handler may send its answer in parts.
        response.elapsed = timedelta(seconds=time.perf_counter() - begin)
        with self._lock:  # one client may be asked from many threads
            self._answers[response.status_code // 100] += 1
        return response


class ManagementTransport(Transport):
    """The management address, which also renews the keys of both APIs."""

    def renew(self, kind: Kind) -> bool:
        """GET /token with the API key; the answer is empty, the new key is in the file."""
        if self._address is None:
            return False  # the refusal is told, and not that it cannot be helped
        try:
            key = self.tokens.token("API")
        except ClientError:  # the file holds none: whoever wrote it does not let us renew
            return False
        if key is None:
            return False
        # The call that follows is sent with what the file holds by then.
        return self._send("GET", "/token", {"type": kind}, None, key, {}).status_code < 300


class InferenceTransport(Transport):
    """The inference address; keys are renewed through the management one, where there is one."""

    management: ManagementTransport | None = None

    def renew(self, kind: Kind) -> bool:
        """Through the management address."""
        return self.management is not None and self.management.renew(kind)


def path_of(*parts: str) -> str:
    """A path with every part quoted. Refuses parts that TorchServe would misread."""
    for part in parts:
        if not part or part in {".", ".."}:
            raise ClientError(f"{part!r} cannot be a model's name or version")
    return "/" + "/".join(quote(part, safe="") for part in parts)


def json_of(response: requests.Response) -> Any:
    """The answer's JSON; ClientError where it is none, as from something that is not TorchServe."""
    try:
        return response.json()
    except _NOT_JSON:
        raise ClientError(
            f"{response.url}: answered {response.status_code} with something that is not JSON: "
            f"{response.text[:200]!r}; is this TorchServe?"
        ) from None


@contextmanager
def understood(where: str) -> Iterator[None]:
    """ClientError where an answer's JSON has not the form that it has in TorchServe."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ClientError(
            f"{where}: answered with JSON that is not TorchServe's; is this TorchServe?"
        ) from error


# -- answers that are not success ---------------------------------------------------------------


def bad_answer(response: requests.Response, where: str) -> BadAnswer:  # noqa: PLR0911 (one for each kind)
    """The error for an answer of TorchServe itself, or of a handler behind it."""
    status, body = response.status_code, response.text
    own = _own_error(response)
    if own is None:
        return _handlers_answer(where, status, body, response)
    kind, message = own
    text = f"{where}: {status}: {message}"
    if kind == "InvalidKeyException":
        return NotAllowed(
            f"{where}: the token is missing, wrong or expired (TorchServe answers {status}). Tokens are in "
            "key_file.json in the folder the server was started in; a restart makes new ones",
            status=status,
            body=body,
        )
    if kind == "MethodNotAllowedException":
        remedy = "models cannot be registered or unregistered here: start it with enable_model_api=true"
        return NotAllowed(f"{where}: {status}: {remedy}", status=status, body=body)
    if kind == "ModelNotFoundException" and message.startswith("Model not found at"):
        return ArchiveNotInStore(f"{text} in the server's model store", status=status, body=body)
    if kind == "ModelNotFoundException" and not message.startswith("Model not found"):
        # not allowed by allowed_urls, or a path with ..
        return NotAllowed(f"{text}; put the archive into the server's model store", status=status, body=body)
    simple: dict[str, type[BadAnswer]] = {
        "ModelNotFoundException": ModelNotFound,
        "ModelVersionNotFoundException": ModelNotFound,
        "ConflictStatusException": AlreadyRegistered,
        "InvalidModelVersionException": IsDefaultVersion,
        "ServiceUnavailableException": Unavailable,
        "ResourceNotFoundException": NotFound,
    }
    if kind in simple:
        return simple[kind](text, status=status, body=body)
    if kind == "InternalServerException":
        return _backends_answer(text, status, body, message)
    family: type[BadAnswer] = ServerFailed if status >= 500 else InvalidRequest
    return family(text, status=status, body=body)


def _backends_answer(text: str, status: int, body: str, message: str) -> BadAnswer:
    """What the frontend says for a worker that did not answer a request well."""
    if message == "Worker died.":
        return WorkerDied(
            f"{text} The worker crashed or took longer than responseTimeout; its log is model_log.log",
            status=status,
            body=body,
        )
    if status == 507:
        return OutOfResources(text, status=status, body=body)
    handler = {
        "Prediction failed",
        "Invalid model predict output",
        "number of batch response mismatched",
        "Unsupported model output data type.",
    }
    if message in handler:
        return HandlerFailed(f"{text} (the traceback is in model_log.log)", status=status, body=body)
    return ServerFailed(text, status=status, body=body)


def _handlers_answer(where: str, status: int, body: str, response: requests.Response) -> BadAnswer:
    """What is not TorchServe's own form comes from the handler, or from a proxy in between."""
    if status < 400:
        there = response.headers.get("location", "another address")
        text = f"{where}: {status}: redirects to {there}; not followed, for the token would go along"
        return BadAnswer(text, status=status, body=body)
    reason = body[:500] or str(response.reason or "no reason given")
    try:
        content = response.json()
        if isinstance(content, dict) and isinstance(content.get("error"), str):
            reason = content["error"]
    except _NOT_JSON:
        pass
    text = f"{where}: {status}: {reason}"
    if 400 <= status < 500 or status == 501:
        return HandlerRefused(text, status=status, body=body, reason=reason)
    return ServerFailed(text, status=status, body=body)


def _own_error(response: requests.Response) -> tuple[str, str] | None:
    """Type and message of TorchServe's own errors, {"code", "type", "message"}; None for anything else."""
    try:
        content = response.json()
    except _NOT_JSON:
        return None
    if isinstance(content, dict) and isinstance(content.get("type"), str) and "code" in content:
        return content["type"], str(content.get("message"))
    return None


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _refused(error: Exception) -> bool:
    return "NewConnectionError" in repr(error) or "NameResolutionError" in repr(error)


def _cause(error: Exception) -> str:
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return re.sub(r"^(?:<.*?>|HTTPS?Connection(?:Pool)?\(.*?\)): ", "", str(reason or error))
