"""Where tokens come from: TorchServe's key_file.json, or the caller.

TorchServe writes the file when it starts and whenever a key is renewed; a key lives `token_expiration_min`
minutes (60 unless told), and a restart of the server makes new ones. So the file is read again whenever
it has changed, and a key that has expired is renewed with the file's API key.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, Protocol

from ..errors import ClientError
from ..files import read_text
from ._time import parse_instant

Kind = Literal["management", "inference", "API"]


class Tokens(Protocol):
    """What a client asks for a token."""

    def token(self, kind: Kind) -> str | None:
        """The token to send, or None to send none."""
        ...

    def expired(self, kind: Kind) -> bool:
        """Whether the token is known to have expired."""
        ...

    def refused(self, kind: Kind, token: str | None) -> bool:
        """The server refused `token`: is there another one now, that is worth a second call?"""
        ...


@dataclass(frozen=True)
class NoTokens:
    """For a server that runs with token authorization disabled."""

    def token(self, kind: Kind) -> str | None:  # noqa: ARG002
        """None."""
        return None

    def expired(self, kind: Kind) -> bool:  # noqa: ARG002
        """Never."""
        return False

    def refused(self, kind: Kind, token: str | None) -> bool:  # noqa: ARG002
        """No."""
        return False


@dataclass(frozen=True, repr=False)
class StaticTokens:
    """Tokens that the caller has."""

    management: str | None = None
    inference: str | None = None
    api: str | None = None

    def __repr__(self) -> str:
        given = [name for name in ("management", "inference", "api") if getattr(self, name)]
        return f"StaticTokens({', '.join(f'{name}=***' for name in given)})"

    def token(self, kind: Kind) -> str | None:
        """The one given for `kind`."""
        return {"management": self.management, "inference": self.inference, "API": self.api}[kind]

    def expired(self, kind: Kind) -> bool:  # noqa: ARG002
        """Not known."""
        return False

    def refused(self, kind: Kind, token: str | None) -> bool:  # noqa: ARG002
        """There is no other."""
        return False


class TokenFile:
    """A file with one token for all calls: that of a proxy in front, as a secret is mounted somewhere.

    It is read for each call, as such a file is replaced when the token is.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"TokenFile({str(self.path)!r})"

    def token(self, kind: Kind) -> str | None:  # noqa: ARG002
        """The file's token. Raises ClientError where there is none."""
        try:
            found = read_text(self.path).strip()
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise ClientError(f"{self.path}: cannot be read: {why}; expected a file with a token") from None
        if not found or not found.isascii() or not found.isprintable() or " " in found:
            raise ClientError(f"{self.path}: expected one token, on a line of its own, and nothing else")
        return found

    def expired(self, kind: Kind) -> bool:  # noqa: ARG002
        """Not known."""
        return False

    def refused(self, kind: Kind, token: str | None) -> bool:
        """Whether the file has another one by now."""
        return self.token(kind) != token


def _now() -> datetime:
    return datetime.now(timezone.utc)


class KeyFile:
    """TorchServe's key_file.json, which it writes into its working directory."""

    def __init__(
        self,
        path: str | Path,
        *,
        now: Callable[[], datetime] = _now,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.path = Path(path)
        self._now = now
        self._sleep = sleep
        # Together, so that another thread never finds a new stamp with an old content.
        self._seen: tuple[tuple[int, int, int] | None, dict[str, Any]] = (None, {})

    def __repr__(self) -> str:
        return f"KeyFile({str(self.path)!r})"

    def token(self, kind: Kind) -> str | None:
        """The file's key of this kind, as it is now. Raises ClientError where there is none."""
        key: str = self._entry(kind)["key"]
        return key

    def expired(self, kind: Kind) -> bool:
        """By the time that the file gives, on this machine's clock."""
        text = self._entry(kind).get("expiration time")
        if not isinstance(text, str):
            return False
        try:
            until = parse_instant(text)
        except ValueError:
            return False
        return self._now() >= until

    def refused(self, kind: Kind, token: str | None) -> bool:
        """Whether the file has another key by now, as it does after a renewal or a restart."""
        self._seen = (None, {})
        return self.token(kind) != token

    def _entry(self, kind: Kind) -> dict[str, Any]:
        entry = self._read().get(kind)
        if not isinstance(entry, dict) or not isinstance(entry.get("key"), str) or not entry["key"]:
            raise ClientError(f"{self.path}: holds no {kind} key; is it the key_file.json of TorchServe?")
        return entry

    def _read(self) -> dict[str, Any]:
        """The file's content, read again if it is not the one that was read before."""
        seen, known = self._seen
        try:
            status = self.path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp == seen:
                return known
            content = self._parse()
        except FileNotFoundError:
            raise ClientError(
                f"{self.path}: no such file. TorchServe writes key_file.json where it is started: "
                "give its path, or the tokens themselves, or say that the server runs without tokens"
            ) from None
        except PermissionError:
            raise ClientError(
                f"{self.path}: not readable for {_user()}; only the user who started TorchServe may read it"
            ) from None
        except OSError as error:
            raise ClientError(f"{self.path}: cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError):
            raise ClientError(
                f"{self.path}: cannot be read: it is no JSON. Give the key_file.json that TorchServe writes "
                "where it is started"
            ) from None
        if not isinstance(content, dict):
            raise ClientError(f"{self.path}: holds no JSON object; is it the key_file.json of TorchServe?")
        self._seen = (stamp, content)
        return content

    def _parse(self) -> Any:
        """The file's content. TorchServe writes it in place, so a part of it may be there for a moment."""
        for _ in range(4):
            try:
                return json.loads(read_text(self.path))
            except ValueError:
                self._sleep(0.05)
        return json.loads(read_text(self.path))


def _user() -> str:
    return f"user {os.getuid()}" if hasattr(os, "getuid") else "this user"
