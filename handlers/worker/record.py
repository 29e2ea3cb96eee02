"""Record some requests for a replay to a later version, if model.yaml asks for it.

`record` in model.yaml names a folder, and recording is on while that folder exists: the server's operator
makes it, and removes it to stop recording. Each worker appends to its own file,
<model>-<version>-<pid>.jsonl, one JSON object a line: `at` (seconds since 1970), `model`, `version`,
`content_type`, `sha256` of the body, and the body itself, as `json` if TorchServe has parsed it and as `body`
(base64) otherwise. It keeps no headers.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..requests import looks_like_json, text_of

logger = logging.getLogger(__name__)

BINARY = "application/octet-stream"
JSON = "application/json"
_FORMS = ("multipart/", "application/x-www-form-urlencoded")


@dataclass(frozen=True)
class RecordConfig:
    """The section `record`. The limits apply to one body, and to all files of the version in the folder."""

    folder: str
    share: float = 1.0
    max_bytes_each: int = 1_000_000
    max_bytes_total: int = 100_000_000
    fields: tuple[str, ...] | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> RecordConfig:
        """Read the section in model-config.yaml, which has a list instead of a tuple."""
        fields = config.get("fields")
        return cls(**{**config, "fields": None if fields is None else tuple(fields)})


@dataclass(frozen=True)
class Kept:
    """A body equivalent to a request's; `parsed` says that it is JSON."""

    body: bytes
    content_type: str
    parsed: bool = False


class Recorder:
    """Appends requests to this worker's file. A failure is logged once and never fails the request."""

    def __init__(self, config: RecordConfig, model: str, version: str) -> None:
        self._config = config
        self._about = {"model": model, "version": version}
        self._folder = Path(config.folder)
        self._prefix = re.sub(r"[^A-Za-z0-9_.\-]", "_", f"{model}-{version}") + "-"
        self._full = False
        self._complained = False

    def keep(self, request: Mapping[str, Any], content_type: str) -> None:
        """Record one request, as TorchServe passes it, if it is drawn and the limits allow it."""
        if self._full or random.random() >= self._config.share:  # noqa: S311 (no secret)
            return
        try:
            kept = body_of(request, content_type, self._config.fields)
            if kept is not None and len(kept.body) <= self._config.max_bytes_each:
                self._append(_line(kept, self._about))
        except FileNotFoundError:
            pass  # without the folder, recording is off
        except Exception as error:
            if not self._complained:
                self._complained = True
                logger.warning("recording requests in %s failed, said once: %s", self._folder, error)

    def _append(self, line: bytes) -> None:
        if self._bytes_there() + len(line) > self._config.max_bytes_total:
            self._full = True
            logger.info("recording in %s has reached max_bytes_total and stops", self._folder)
            return
        # Requests may be private: only the server's user may read them, and links are not followed.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        file = os.open(self._folder / f"{self._prefix}{os.getpid()}.jsonl", flags, 0o600)
        try:
            # One call, so that readers see whole lines. If the disk took only a part, nothing may follow it.
            self._full = os.write(file, line) < len(line)
        finally:
            os.close(file)

    def _bytes_there(self) -> int:
        """Return this version's bytes by all its workers, with those that have died."""
        with os.scandir(self._folder) as entries:
            return sum(entry.stat().st_size for entry in entries if entry.name.startswith(self._prefix))


def body_of(
    request: Mapping[str, Any], content_type: str, fields: tuple[str, ...] | None = None
) -> Kept | None:
    """Return the part of a request to keep; None if there is none.

    TorchServe passes the parts of a body, not the body itself, see inputs.py. Of a form, only the part that
    handlers take is kept. With `fields`, only these fields of a JSON object are kept, and no other JSON.
    """
    value = request.get("data", request.get("body"))
    if value is None:
        return None
    if isinstance(value, str) and content_type.startswith(JSON):  # TorchServe has parsed it
        return None if fields is not None else Kept(json.dumps(value).encode(), JSON, parsed=True)
    if isinstance(value, bytes | bytearray | str):
        text = None if fields is None else text_of(value)
        if text is None or not looks_like_json(text):
            raw = value.encode() if isinstance(value, str) else bytes(value)
            return Kept(raw, BINARY if content_type.startswith(_FORMS) else content_type or BINARY)
        value = json.loads(text)  # JSON under another content type has private fields as well
    if fields is not None:
        if not isinstance(value, Mapping):
            return None
        value = {name: value[name] for name in fields if name in value}
    return Kept(json.dumps(value, separators=(",", ":")).encode(), JSON, parsed=True)


def _line(kept: Kept, about: Mapping[str, str]) -> bytes:
    content: dict[str, Any] = {"at": round(time.time(), 3), **about, "content_type": kept.content_type}
    content["sha256"] = hashlib.sha256(kept.body).hexdigest()
    if kept.parsed:
        content["json"] = json.loads(kept.body)
    else:
        content["body"] = base64.b64encode(kept.body).decode()
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"
