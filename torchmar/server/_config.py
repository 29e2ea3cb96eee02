"""config.properties, as far as torchmar needs to know it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import ServerError

LOG_CONFIG = "log4j2.xml"

_DEFAULTS = {
    "inference_address": "http://127.0.0.1:8080",
    "management_address": "http://127.0.0.1:8081",
    "metrics_address": "http://127.0.0.1:8082",
    "grpc_inference_port": "7070",
    "grpc_management_port": "7071",
    "initial_worker_port": "9000",
    "max_request_size": "6553500",
}
# What TorchServe takes where an address names none: for http, for https.
_PORTS = {"inference_address": (80, 443), "management_address": (8081, 8444), "metrics_address": (8082, 8445)}


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
        return self._address("inference_address")

    @property
    def management(self) -> str:
        """The management API's URL."""
        return self._address("management_address")

    @property
    def metrics(self) -> str:
        """The metrics API's URL."""
        return self._address("metrics_address")

    def ports(self) -> dict[str, int]:
        """Each port the server will listen on, by the setting it comes from. Raises ServerError."""
        found = {}
        for key in _PORTS:
            try:
                address = urlsplit(self._address(key))
                if address.scheme != "unix" and not (
                    address.scheme in {"http", "https"} and address.hostname
                ):
                    raise ValueError("expected http://HOST:PORT")
                found[key] = address.port
            except ValueError as error:
                where = self.path or "the configuration"
                raise ServerError(f"{where}: {key}={self.get(key)} is no address: {error}") from None
        for key in ("grpc_inference_port", "grpc_management_port"):
            if self.get(key).isdigit():
                found[key] = int(self.get(key))
        return {key: port for key, port in found.items() if port is not None}  # unix:/PATH has none

    def _address(self, key: str) -> str:
        text = self.get(key).rstrip("/")
        address = urlsplit(text)
        if address.port is not None or address.scheme == "unix":
            return text
        return f"{text}:{_PORTS[key][address.scheme == 'https']}"

    def with_settings(self, changes: Mapping[str, str]) -> ServerConfig:
        """The same with some settings replaced; it belongs to no file yet."""
        return ServerConfig(None, {**self.settings, **changes})

    def write(self, path: Path) -> ServerConfig:
        """Write all settings into a file, which TorchServe then reads."""
        lines = [f"{key}={_escape(value)}" for key, value in self.settings.items()]
        path.write_text("\n".join(lines) + "\n", encoding="latin-1")
        return ServerConfig(path, self.settings)


def config_or_defaults(path: Path) -> ServerConfig:
    """`read_config`, and TorchServe's own defaults where there is no such file."""
    return read_config(path) if path.is_file() else ServerConfig(None, {})


def hardened_config() -> ServerConfig:
    """Torchmar's own config.properties: what is used where a folder has none."""
    text = (files("torchmar") / "data" / "config.properties").read_text(encoding="latin-1")
    return ServerConfig(None, parse_properties(text))


def log_config() -> Path:
    """Torchmar's own log4j2.xml: what is used where a folder has none."""
    return Path(str(files("torchmar") / "data" / LOG_CONFIG))


def read_config(path: Path) -> ServerConfig:
    """The settings in a file. Raises ServerError where it cannot be read."""
    try:
        text = path.read_text(encoding="latin-1")  # what Java's Properties reads
    except OSError as error:
        raise ServerError(f"{path}: cannot be read: {error.strerror}") from None
    config = ServerConfig(path, parse_properties(text))
    config.ports()  # raises where an address is none
    return config


_SPACE = " \t\f"  # and no other: Java's rule


def parse_properties(text: str) -> dict[str, str]:
    r"""Java's .properties: `key=value`, `key: value` or `key value`; # and ! comments; \ continues a line."""
    found: dict[str, str] = {}
    for line in _logical_lines(text):
        match = re.match(rf"((?:\\.|[^\\=:{_SPACE}])*)[{_SPACE}]*[=:]?[{_SPACE}]*(.*)", line, re.DOTALL)
        if match is not None and match[1]:
            found[_unescape(match[1])] = _unescape(match[2])
    return found


def _logical_lines(text: str) -> list[str]:
    lines: list[str] = []
    pending = ""
    for raw in re.split(r"\r\n|\r|\n", text):
        line = raw.lstrip(_SPACE)
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

    units = re.sub(r"\\(?:u([0-9a-fA-F]{4})|(.))", replace, text, flags=re.DOTALL)
    # Java's characters have 16 bits: two of them may make one of ours.
    return units.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _escape(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    if escaped[:1] and escaped[0] in _SPACE:
        escaped = "\\" + escaped
    return re.sub(r"[^\x00-\xff]", lambda match: _utf16(match[0]), escaped)


def _utf16(character: str) -> str:
    digits = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{digits[i : i + 4]}" for i in range(0, len(digits), 4))
