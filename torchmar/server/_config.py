"""config.properties, as far as torchmar needs to know it."""

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
# What TorchServe takes where an address names none: for http, for https.
_PORTS = {"inference_address": (80, 443), "management_address": (8081, 8444), "metrics_address": (8082, 8445)}
ADDRESSES = tuple(_PORTS)
FROM_ENVIRONMENT = re.compile(r"\$\$([^$]{2,})\$\$")


@dataclass(frozen=True)
class ServerConfig:
    """A configuration file's settings, with TorchServe's defaults for what it does not say.

    `misread` tells why TorchServe would read other settings from this file than the ones it was written for.
    """

    path: Path | None
    settings: Mapping[str, str]
    misread: str = ""

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

    def store(self, folder: Path) -> Path:
        """The model store of a server that runs in `folder`: the one named here, else model_store there."""
        named = Path(self.get("model_store") or "model_store")
        with suppress(RuntimeError):  # ~somebody, whom this machine does not know
            named = named.expanduser()
        return folder / named

    def ports(self) -> dict[str, int]:
        """Each port the server will listen on, by the setting it comes from. Raises ServerError."""
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
                told = f"{key}={shown(self.get(key))}"
                raise ServerError(f"{where}: {told} is no address: {error}") from None
        for key in ("grpc_inference_port", "grpc_management_port"):
            with suppress(ValueError):
                found[key] = int(self.get(key))
        return {key: port for key, port in found.items() if port is not None}  # unix:/PATH has none

    def host(self, key: str) -> str:
        """The address that is listened on at a port of `ports`."""
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
        """What TorchServe makes of it there: $$NAME$$ stands for a variable, and TS_… may replace a setting.

        A variable that is not there stays as it is written: TorchServe does not start.
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
        """The same with some settings replaced; it belongs to no file yet."""
        return ServerConfig(None, {**self.settings, **changes})

    def write(self, path: Path) -> ServerConfig:
        """Write all settings into a file, which TorchServe then reads."""
        lines = [f"{_escape_key(key)}={_escape(value)}" for key, value in self.settings.items()]
        # ASCII alone: TorchServe's launcher reads it in the locale's encoding, its Java in Latin-1.
        path.write_text("\n".join(lines) + "\n", encoding="ascii")
        return ServerConfig(path, self.settings)


def config_or_defaults(path: Path, *, by_java: bool = False) -> ServerConfig:
    """`read_config`, and TorchServe's own defaults where there is no such file."""
    try:
        config = load_config(path, by_java=by_java)
    except FileNotFoundError:
        return ServerConfig(None, {})
    config.ports()
    return config


def hardened_config() -> ServerConfig:
    """Torchmar's own config.properties: what is used where a folder has none."""
    text = (files("torchmar") / "data" / "config.properties").read_text(encoding="latin-1")
    return ServerConfig(None, parse_properties(text))


def log_config() -> Path:
    """Torchmar's own log4j2.xml: what is used where a folder has none."""
    return Path(str(files("torchmar") / "data" / LOG_CONFIG))


def read_config(path: Path) -> ServerConfig:
    """The settings in a file. Raises ServerError where it cannot be read, or an address in it is none."""
    try:
        config = load_config(path)
    except FileNotFoundError:
        raise ServerError(f"{path}: cannot be read: no such file") from None
    config.ports()
    return config


def load_config(path: Path, *, by_java: bool = False) -> ServerConfig:
    """The settings in a file, whatever they are: as they were meant, or as TorchServe's Java reads them.

    Raises FileNotFoundError, and ServerError where there is a file that cannot be read.
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
    """What the text was for who wrote it: Java's own encoding, Latin-1, where it is no Unicode."""
    try:
        if 0 in raw[:2]:  # UTF-16 without its mark
            return raw.decode("utf-16-le" if raw[0] else "utf-16-be")
        return decode_text(raw)
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _is_utf16(raw: bytes) -> bool:
    """By its mark; or, without one, as half of the first letter is 0."""
    return raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or 0 in raw[:2]


def _misread(raw: bytes, meant: Mapping[str, str]) -> str:
    """Why TorchServe reads other settings than the ones that are `meant`; '' where it does not."""
    if _is_utf16(raw):
        return "is written in UTF-16, of which TorchServe understands nothing"
    text = raw.decode("latin-1")
    if any(_BAD_ESCAPE.search(line) for line in _logical_lines(text)):
        return "holds a \\u without four hexadecimal digits: TorchServe does not start with it"
    found = parse_properties(text)
    lost = ", ".join(shown(key) for key, value in meant.items() if found.get(key) != value)
    if lost and raw.startswith(codecs.BOM_UTF8):
        return f"begins with a byte order mark: TorchServe does not find or misreads {lost}"
    if lost:
        return f"is written in UTF-8, and TorchServe reads Latin-1: it misreads {lost}"
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return "is not written in UTF-8, and TorchServe's launcher does not start with it"
    return _misread_by_launcher(text, meant)


_OF_LAUNCHER = ("vmargs", "plugins_path")
"""The settings that are read by TorchServe's launcher, a program in Python that knows less than its Java."""


def _misread_by_launcher(text: str, meant: Mapping[str, str]) -> str:
    lines = (line.strip() for line in re.split(r"\r\n|\r|\n", text))
    pairs = (line.partition("=") for line in lines if "=" in line and line[0] != "#")
    read = {key.strip(): value.strip() for key, _, value in pairs}
    lost = [key for key in _OF_LAUNCHER if read.get(key, "") != _escape(meant.get(key, "")).strip()]
    told = f"gives {', '.join(lost)} otherwise than as KEY=VALUE on one line"
    return f"{told}: TorchServe's launcher misreads that" if lost else ""


_BAD_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\u(?![0-9a-fA-F]{4})")
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
