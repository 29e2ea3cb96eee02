"""config.properties, as far as torchmar needs to know it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import ServerError

_DEFAULTS = {
    "inference_address": "http://127.0.0.1:8080",
    "management_address": "http://127.0.0.1:8081",
    "metrics_address": "http://127.0.0.1:8082",
    "grpc_inference_port": "7070",
    "grpc_management_port": "7071",
    "initial_worker_port": "9000",
}


@dataclass(frozen=True)
class ServerConfig:
    """A configuration file's settings, with TorchServe's defaults for what it does not say."""

    path: Path | None
    settings: Mapping[str, str]

    def get(self, key: str) -> str:
        """A setting; '' for one that is neither given nor among the defaults known here."""
        return self.settings.get(key, _DEFAULTS.get(key, ""))

    def is_true(self, key: str) -> bool:
        """As Java's parseBoolean reads it."""
        return self.get(key).lower() == "true"

    @property
    def inference(self) -> str:
        """The inference API's URL."""
        return self.get("inference_address").rstrip("/")

    @property
    def management(self) -> str:
        """The management API's URL."""
        return self.get("management_address").rstrip("/")

    @property
    def metrics(self) -> str:
        """The metrics API's URL."""
        return self.get("metrics_address").rstrip("/")

    def ports(self) -> dict[str, int]:
        """Each port the server will listen on, by the setting it comes from."""
        found = {}
        for key in ("inference_address", "management_address", "metrics_address"):
            address = urlsplit(self.get(key))
            found[key] = address.port or (443 if address.scheme == "https" else 80)
        for key in ("grpc_inference_port", "grpc_management_port"):
            if self.get(key).isdigit():
                found[key] = int(self.get(key))
        return found

    def with_settings(self, changes: Mapping[str, str]) -> ServerConfig:
        """The same with some settings replaced; it belongs to no file yet."""
        return ServerConfig(None, {**self.settings, **changes})

    def write(self, path: Path) -> ServerConfig:
        """Write all settings into a file, which TorchServe then reads."""
        lines = [f"{key}={_escape(value)}" for key, value in self.settings.items()]
        path.write_text("\n".join(lines) + "\n", encoding="latin-1")
        return ServerConfig(path, self.settings)


def read_config(path: Path) -> ServerConfig:
    """The settings in a file. Raises ServerError where it cannot be read."""
    try:
        text = path.read_text(encoding="latin-1")  # what Java's Properties reads
    except OSError as error:
        raise ServerError(f"{path}: cannot be read: {error.strerror}") from None
    return ServerConfig(path, parse_properties(text))


def parse_properties(text: str) -> dict[str, str]:
    r"""Java's .properties: `key=value`, `key: value` or `key value`; # and ! comments; \ continues a line."""
    found: dict[str, str] = {}
    for line in _logical_lines(text):
        match = re.match(r"((?:\\.|[^\\=:\s])*)\s*[=:]?\s*(.*)", line, re.DOTALL)
        if match is not None and match[1]:
            found[_unescape(match[1])] = _unescape(match[2])
    return found


def _logical_lines(text: str) -> list[str]:
    lines: list[str] = []
    pending = ""
    for raw in re.split(r"\r\n|\r|\n", text):
        line = raw.lstrip(" \t\f")
        if not pending and (not line or line[0] in "#!"):
            continue
        trailing = len(line) - len(line.rstrip("\\"))
        if trailing % 2:
            pending += line[:-1]
        else:
            lines.append(pending + line)
            pending = ""
    return [*lines, pending] if pending else lines


_NAMED = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


def _unescape(text: str) -> str:
    def replace(match: re.Match[str]) -> str:
        if match[1]:
            return chr(int(match[1], 16))
        return _NAMED.get(match[2], match[2])

    return re.sub(r"\\(?:u([0-9a-fA-F]{4})|(.))", replace, text, flags=re.DOTALL)


def _escape(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    if escaped[:1] in {" ", "\t", "\f"}:
        escaped = "\\" + escaped
    return "".join(c if ord(c) < 256 else f"\\u{ord(c):04x}" for c in escaped)
