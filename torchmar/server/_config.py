"""Read and write config.properties, as far as torchmar needs it."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import ServerError
from ..files import decode_text
from ..names import shown

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
# TorchServe's ports for an address without one: for http, for https.
_PORTS = {"inference_address": (80, 443), "management_address": (8081, 8444), "metrics_address": (8082, 8445)}
ADDRESSES = tuple(_PORTS)
FROM_ENVIRONMENT = re.compile(r"\$\$([^$]{2,})\$\$")


@dataclass(frozen=True)
class ServerConfig:
    """Holds a configuration file's settings, with TorchServe's defaults for the rest.

    `misread` says why TorchServe would read other settings from this file than its author wrote.
    """

    path: Path | None
    settings: Mapping[str, str]
    misread: str = ""

    def get(self, key: str) -> str:
        """Return a setting; '' if it is neither given nor a default known here."""
        return self.settings.get(key, _DEFAULTS.get(key, ""))

    def is_true(self, key: str) -> bool:
        """Return whether Java's parseBoolean reads the setting as true."""
        return self.get(key).lower() == "true"

    @property
    def inference(self) -> str:
        """Return the inference API's URL."""
        return self._address("inference_address")

    @property
    def management(self) -> str:
        """Return the management API's URL."""
        return self._address("management_address")

    @property
    def metrics(self) -> str:
        """Return the metrics API's URL."""
        return self._address("metrics_address")

    @property
    def addresses(self) -> dict[str, str]:
        """Return the URL of each API, by its name."""
        return {"inference": self.inference, "management": self.management, "metrics": self.metrics}

    def store(self, folder: Path) -> Path:
        """Return the model store of a server in `folder`: the setting's, or else model_store there."""
        named = Path(self.get("model_store") or "model_store")
        with suppress(RuntimeError):  # ~user for a user that this machine does not have
            named = named.expanduser()
        return folder / named

    def ports(self) -> dict[str, int]:
        """Return each port that the server will listen on, by its setting. Raises ServerError."""
        found: dict[str, int | None] = {}
        for key in ADDRESSES:
            try:
                address = urlsplit(self._address(key))
                if address.scheme != "unix" and not (
                    address.scheme in {"http", "https"} and address.hostname
                ):
                    raise ValueError("expected http://HOST:PORT")
                found[key] = address.port
            except ValueError as error:
                where = self.path or "the configuration"
                setting = f"{key}={shown(self.get(key))}"
                raise ServerError(f"{where}: {setting} is no address: {error}") from None
        for key in ("grpc_inference_port", "grpc_management_port"):
            with suppress(ValueError):
                found[key] = int(self.get(key))
        return {key: port for key, port in found.items() if port is not None}  # unix:/PATH has no port

    def host(self, key: str) -> str:
        """Return the address to listen on for a port of `ports`."""
        if key in ADDRESSES:
            return urlsplit(self._address(key)).hostname or ""
        return self.get(key.replace("_port", "_address")) or "127.0.0.1"

    def _address(self, key: str) -> str:
        text = self.get(key).rstrip("/")
        address = urlsplit(text)
        if address.port is not None or address.scheme == "unix":
            return text
        return f"{text}:{_PORTS[key][address.scheme == 'https']}"

    def resolved(self, environment: Mapping[str, str]) -> ServerConfig:
        """Return the settings as TorchServe resolves them from the environment.

        A variable's value replaces $$NAME$$, and TS_… may replace a setting. An unset variable stays as
        written; TorchServe then does not start.
        """
        settings = {
            key: FROM_ENVIRONMENT.sub(lambda match: environment.get(match[1], match[0]), value)
            for key, value in self.settings.items()
        }
        if settings.get("enable_envvars_config", "").lower() == "true":
            own = {key[3:].lower(): value for key, value in environment.items() if key.startswith("TS_")}
            if settings.get("use_env_allowed_urls", "").lower() != "true":
                own.pop("allowed_urls", None)
            settings |= own
        misread = self.misread
        changed = [key for key in _OF_LAUNCHER if settings.get(key) != self.settings.get(key)]
        if changed and not misread:
            misread = (
                f"leaves {', '.join(changed)} to the environment, where TorchServe's launcher does not look"
            )
        return ServerConfig(self.path, settings, misread)

    def with_settings(self, changes: Mapping[str, str]) -> ServerConfig:
        """Return a copy with some settings replaced. It belongs to no file yet."""
        return ServerConfig(None, {**self.settings, **changes})

    def write(self, path: Path) -> ServerConfig:
        """Write all settings into a file for TorchServe."""
        lines = [f"{_escape_key(key)}={_escape(value)}" for key, value in self.settings.items()]
        # Pure ASCII: TorchServe's launcher reads it in the locale's encoding, its Java in Latin-1.
        path.write_text("\n".join(lines) + "\n", encoding="ascii")
        return ServerConfig(path, self.settings)


def config_or_defaults(path: Path, *, by_java: bool = False) -> ServerConfig:
    """Return `read_config`'s result, or TorchServe's own defaults if there is no such file."""
    try:
        config = load_config(path, by_java=by_java)
    except FileNotFoundError:
        return ServerConfig(None, {})
    config.ports()
    return config


def hardened_config() -> ServerConfig:
    """Return torchmar's own config.properties, for folders without one."""
    text = (files("torchmar") / "data" / "config.properties").read_text(encoding="latin-1")
    return ServerConfig(None, parse_properties(text))


def config_or_hardened(
    path: Path, environment: Mapping[str, str], *, is_required: bool = False
) -> ServerConfig:
    """Return a file's settings as the environment resolves them; torchmar's own if there is no such file.

    Raises ServerError if the file is unreadable, or missing although it `is_required`.
    """
    try:
        return load_config(path).resolved(environment)
    except FileNotFoundError:
        if is_required:
            raise ServerError(f"{path}: cannot be read: no such file") from None
        return hardened_config()


def log_config() -> Path:
    """Return torchmar's own log4j2.xml, for folders without one."""
    return Path(str(files("torchmar") / "data" / LOG_CONFIG))


def read_config(path: Path) -> ServerConfig:
    """Return a file's settings. Raises ServerError if it is unreadable, or holds an invalid address."""
    try:
        config = load_config(path)
    except FileNotFoundError:
        raise ServerError(f"{path}: cannot be read: no such file") from None
    config.ports()
    return config


def load_config(path: Path, *, by_java: bool = False) -> ServerConfig:
    """Return a file's settings, valid or not: as their author wrote them, or as TorchServe's Java reads them.

    Raises FileNotFoundError; ServerError if the file is unreadable.
    """
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(str(path)) from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ServerError(f"{path}: cannot be read: {why}") from None
    if by_java:
        return ServerConfig(path, parse_properties(raw.decode("latin-1")))
    settings = parse_properties(_as_written(raw))
    return ServerConfig(path, settings, _misread(raw, settings))


def _as_written(raw: bytes) -> str:
    """Decode the text as its author wrote it: as Unicode, or else as Java's own Latin-1."""
    try:
        if 0 in raw[:2]:  # UTF-16 without a byte order mark
            return raw.decode("utf-16-le" if raw[0] else "utf-16-be")
        return decode_text(raw)
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _is_utf16(raw: bytes) -> bool:
    """Return whether a byte order mark, or a zero byte in the first letter, shows UTF-16."""
    return raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or 0 in raw[:2]


def _misread(raw: bytes, written: Mapping[str, str]) -> str:
    """Explain why TorchServe reads settings other than the `written` ones; '' if it reads the same."""
    if _is_utf16(raw):
        return "is written in UTF-16, of which TorchServe understands nothing"
    text = raw.decode("latin-1")
    if any(_BAD_ESCAPE.search(line) for line in _logical_lines(text)):
        return "holds a \\u without four hexadecimal digits: TorchServe does not start with it"
    found = parse_properties(text)
    lost = ", ".join(shown(key) for key, value in written.items() if found.get(key) != value)
    if lost and raw.startswith(codecs.BOM_UTF8):
        return f"begins with a byte order mark: TorchServe does not find or misreads {lost}"
    if lost:
        return f"is written in UTF-8, and TorchServe reads Latin-1: it misreads {lost}"
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return "is not written in UTF-8, and TorchServe's launcher does not start with it"
    return _misread_by_launcher(text, written)


_OF_LAUNCHER = ("vmargs", "plugins_path")
"""The settings that TorchServe's launcher reads, a Python program with a simpler parser than its Java's."""


def _misread_by_launcher(text: str, written: Mapping[str, str]) -> str:
    lines = (line.strip() for line in re.split(r"\r\n|\r|\n", text))
    pairs = (line.partition("=") for line in lines if "=" in line and line[0] != "#")
    read = {key.strip(): value.strip() for key, _, value in pairs}
    lost = [key for key in _OF_LAUNCHER if read.get(key, "") != _escape(written.get(key, "")).strip()]
    problem = f"gives {', '.join(lost)} otherwise than as KEY=VALUE on one line"
    return f"{problem}: TorchServe's launcher misreads that" if lost else ""


_BAD_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\u(?![0-9a-fA-F]{4})")
_SPACE = " \t\f"  # Java's rule: these three and no other


def parse_properties(text: str) -> dict[str, str]:
    r"""Parse Java's .properties: `key=value`, `key: value`, `key value`; # and ! comment; \ continues."""
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
    # Java's characters have 16 bits; two of them may form one of Python's.
    return units.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _escape(text: str) -> str:
    escaped = _escape_anywhere(text)
    return "\\" + escaped if escaped[:1] and escaped[0] in _SPACE else escaped


def _escape_key(text: str) -> str:
    return re.sub(r"[=:#! \t\f]", lambda match: "\\" + match[0], _escape_anywhere(text))


def _escape_anywhere(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return re.sub(r"[^\x00-\x7f]", lambda match: _utf16(match[0]), escaped)


def _utf16(character: str) -> str:
    digits = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{digits[i : i + 4]}" for i in range(0, len(digits), 4))
