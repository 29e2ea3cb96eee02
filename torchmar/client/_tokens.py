"""Get tokens from TorchServe's key_file.json, or from the caller.

TorchServe writes the file when it starts and whenever it renews a key. A key lives `token_expiration_min`
minutes (60 by default), and a restart makes new ones. So a client reads the file again when it has changed,
and renews an expired key with the file's API key.
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
    """Supplies a client's tokens."""

    def token(self, kind: Kind) -> str | None:
        """Return the token to send, or None to send none."""
        ...

    def expired(self, kind: Kind) -> bool:
        """Return whether the token is known to have expired."""
        ...

    def refused(self, kind: Kind, token: str | None) -> bool:
        """Return whether there is another token to try, now that the server refused `token`."""
        ...


@dataclass(frozen=True)
class NoTokens:
    """No tokens, for a server with token authorization disabled."""

    def token(self, kind: Kind) -> str | None:  # noqa: ARG002
        """Return None."""
        return None

    def expired(self, kind: Kind) -> bool:  # noqa: ARG002
        """Return False."""
        return False

    def refused(self, kind: Kind, token: str | None) -> bool:  # noqa: ARG002
        """Return False."""
        return False


@dataclass(frozen=True, repr=False)
class StaticTokens:
    """Holds tokens that the caller gives."""

    management: str | None = None
    inference: str | None = None
    api: str | None = None

    def __repr__(self) -> str:
        given = [name for name in ("management", "inference", "api") if getattr(self, name)]
        return f"StaticTokens({', '.join(f'{name}=***' for name in given)})"

    def token(self, kind: Kind) -> str | None:
        """Return the token for `kind`."""
        return {"management": self.management, "inference": self.inference, "API": self.api}[kind]

    def expired(self, kind: Kind) -> bool:  # noqa: ARG002
        """Return False: the expiration is unknown."""
        return False

    def refused(self, kind: Kind, token: str | None) -> bool:  # noqa: ARG002
        """Return False: there is no other token."""
        return False


class TokenFile:
    """Reads one token for all calls from a file, such as a mounted secret for a proxy in front.

    It reads the file for each call, because a new token replaces the file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"TokenFile({str(self.path)!r})"

    def token(self, kind: Kind) -> str | None:  # noqa: ARG002
        """Return the file's token. Raises ClientError if there is none."""
        try:
            found = read_text(self.path).strip()
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise ClientError(f"{self.path}: cannot be read: {why}; expected a file with a token") from None
        if not found or not found.isascii() or not found.isprintable() or " " in found:
            raise ClientError(f"{self.path}: expected one token, on a line of its own, and nothing else")
        return found

    def expired(self, kind: Kind) -> bool:  # noqa: ARG002
        """Return False: the expiration is unknown."""
        return False

    def refused(self, kind: Kind, token: str | None) -> bool:
        """Return whether the file now has another token."""
        return self.token(kind) != token


def _now() -> datetime:
    return datetime.now(timezone.utc)


class KeyFile:
    """Reads TorchServe's key_file.json, which lies in the server's working directory."""

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
        # One tuple, so that no thread sees a new stamp with old content.
        self._seen: tuple[tuple[int, int, int] | None, dict[str, Any]] = (None, {})

    def __repr__(self) -> str:
        return f"KeyFile({str(self.path)!r})"

    def token(self, kind: Kind) -> str | None:
        """Return the file's current key of this kind. Raises ClientError if there is none."""
        key: str = self._entry(kind)["key"]
        return key

    def expired(self, kind: Kind) -> bool:
        """Return whether the file's expiration time has passed on this machine's clock."""
        text = self._entry(kind).get("expiration time")
        if not isinstance(text, str):
            return False
        try:
            until = parse_instant(text)
        except ValueError:
            return False
        return self._now() >= until

    def refused(self, kind: Kind, token: str | None) -> bool:
        """Return whether the file now has another key, as after a renewal or a restart."""
        self._seen = (None, {})
        return self.token(kind) != token

    def _entry(self, kind: Kind) -> dict[str, Any]:
        entry = self._read().get(kind)
        if not isinstance(entry, dict) or not isinstance(entry.get("key"), str) or not entry["key"]:
            raise ClientError(f"{self.path}: holds no {kind} key; is it the key_file.json of TorchServe?")
        return entry

    def _read(self) -> dict[str, Any]:
        """Return the file's content. Reads it only if the file has changed."""
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
        """Return the file's content. TorchServe writes it in place, so a read may find a part of it."""
        for _ in range(4):
            try:
                return json.loads(read_text(self.path))
            except ValueError:
                self._sleep(0.05)
        return json.loads(read_text(self.path))


def _user() -> str:
    return f"user {os.getuid()}" if hasattr(os, "getuid") else "this user"
