"""nginx as a Router: its configuration sends a share of a model's predictions to a candidate version.

`split_clients` chooses a version by a hash of the client, and the request goes to the URL that is pinned to
it. Directives and their rules are those of nginx.org/en/docs/http/ (split_clients, map, proxy, upstream);
tested with nginx 1.22 of Debian 12.
"""

from __future__ import annotations

import ipaddress
import json
import re
import shlex
import subprocess
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import ReleaseError
from ..files import decode_text, replace_file, why_not_writable
from . import Share
from .access_log import AccessLog

# Names and versions come from archives, which anyone may have made: nothing that means something to nginx.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")
_HEADER = re.compile(r"[A-Za-z0-9][A-Za-z0-9\-]*")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.\-]*[A-Za-z0-9])?")
_PATH = re.compile(r"/[A-Za-z0-9_.,:@%+=/ \-]*")
_MARK = "# Written by `torchmar release`, which replaces it at each step, from"
_OLDER_MARK = "# Written by `torchmar release`, which replaces it at each step."
_RELOAD_TIMEOUT = 30.0  # seconds


@dataclass(frozen=True)
class Canary:
    """Describes nginx's configuration: what share of a model's predictions goes where.

    `percent` (0 to 100, two decimals) of the unpinned predictions go to version `candidate`, the rest to
    version `default`; None leaves the rest unpinned, to whatever version is the server's default.

    `listen` and `upstreams` are HOST:PORT; the latter are inference addresses of servers. The candidate is on
    `candidate_upstreams`, () means on all of them. The same value of the header `key_header` always gets the
    same side; a request without it goes by the client's address. `access_log` is where predictions that were
    split are logged, see access_log.py. `response_timeout` in seconds is the longer one of both versions.
    `max_body` in bytes is TorchServe's max_request_size, None where that is not known: then nginx takes every
    body, and the server refuses what is too large for it.
    """

    model: str
    candidate: str
    percent: float
    default: str | None
    upstreams: tuple[str, ...]
    access_log: Path
    listen: str = "127.0.0.1:8088"
    key_header: str = "X-Torchmar-Key"
    response_timeout: int = 120
    max_body: int | None = None
    candidate_upstreams: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises ReleaseError for what cannot be written into a configuration."""
        _require(_NAME, self.model, "a model's name")
        _require(_NAME, self.candidate, "a version")
        if self.default is not None:
            _require(_NAME, self.default, "a version")
        if not 0 <= self.percent <= 100 or round(self.percent, 2) != self.percent:
            raise ReleaseError(
                f"nginx: found {self.percent!r} %; give a number from 0 to 100 with at most two decimals"
            )
        if not self.upstreams:
            raise ReleaseError("nginx: no upstream; give the inference address of at least one server")
        for address in (self.listen, *self.upstreams, *self.candidate_upstreams):
            _require_address(address)
        _require(_HEADER, self.key_header, "a header's name")
        _require(_PATH, str(self.access_log), "an absolute path of plain characters for the access log")
        if self.response_timeout < 1 or (self.max_body is not None and self.max_body < 1):
            raise ReleaseError("nginx: response_timeout (seconds) and max_body (bytes) must be at least 1")


def configuration(canary: Canary) -> str:
    """Return a file to `include` in nginx's http block. Its header holds `canary` itself: see `described`."""
    return f"""\
# {_share(canary.percent)} of {canary.model} to version {canary.candidate}.
{_MARK}
# {json.dumps({**asdict(canary), "access_log": str(canary.access_log)})}

{_log(canary)}
{_split(canary)}
# A server is never put aside for a while: a burst of bad requests, whose connections TorchServe resets, must
# not make nginx answer 502 to good ones. A server that is down refuses at once, and the next one is asked.
{_upstream("torchmar_servers", canary.upstreams)}
{_upstream("torchmar_candidate", canary.candidate_upstreams or canary.upstreams)}
{_server(canary)}"""


def described(text: str) -> Canary | None:
    """Return what a configuration was made from; None for a text that `configuration` did not write."""
    _, mark, rest = text.replace("\r\n", "\n").partition(f"{_MARK}\n# ")
    if not mark:
        return None
    with suppress(ValueError, TypeError, KeyError, AttributeError, ReleaseError):
        content = json.loads(rest.partition("\n")[0])
        lists = {name: tuple(content[name]) for name in ("upstreams", "candidate_upstreams")}
        return Canary(**{**content, **lists, "access_log": Path(content["access_log"])})
    return None


def _log(canary: Canary) -> str:
    return f"""\
log_format torchmar escape=json
    '{{"time":$msec,"model":"{canary.model}","version":"$torchmar_version","status":"$status",'
    '"seconds":$request_time,"upstream_seconds":"$upstream_response_time","upstream":"$upstream_addr"}}';
"""


def _split(canary: Canary) -> str:
    """Return the maps from a client to the version that answers, and to its servers."""
    header = canary.key_header.lower().replace("-", "_")
    return f"""\
# Who asks. The model is part of what is hashed, so that other users meet the canary of another model.
map $http_{header} $torchmar_key {{
    ""      $remote_addr;
    default $http_{header};
}}
split_clients "{canary.model} $torchmar_key" $torchmar_side {{
{_sides(canary)}
}}
# Only predictions are split; OPTIONS, for one, asks for a description. `curl -T FILE` is a PUT.
map $request_method $torchmar_version {{
    GET     $torchmar_side;
    POST    $torchmar_side;
    PUT     $torchmar_side;
    default "";
}}
map $torchmar_version $torchmar_pin {{
    ""      "";
    default "/$torchmar_version";
}}
map $torchmar_version $torchmar_upstream {{
    "{canary.candidate}" torchmar_candidate;
    default torchmar_servers;
}}
"""


def _upstream(name: str, servers: tuple[str, ...]) -> str:
    lines = "\n".join(f"    server {address} max_fails=0;" for address in servers)
    return f"""\
upstream {name} {{
{lines}
    keepalive 32;
}}
"""


def _server(canary: Canary) -> str:
    # Time in the queue, for which TorchServe has no limit, and time in the worker, for which it has.
    read_timeout = 2 * canary.response_timeout
    return f"""\
server {{
    listen {canary.listen};
    # 0 is no limit: the server's own holds.
    client_max_body_size {canary.max_body or 0};
    client_body_buffer_size 1m;
    # A reload closes idle connections: a client that sends on one at that moment would lose its request
    # (measured over 60 reloads: 12 of 6,800 were lost with kept connections, none without).
    keepalive_timeout 0;

    # Authorization and all other headers of the client go along. Connections are kept: TorchServe closes one
    # by resetting it, which can cut off an answer that is still on its way.
    proxy_http_version 1.1;
    proxy_set_header Host $http_host;
    proxy_set_header Connection "";
    proxy_connect_timeout 5s;
    proxy_send_timeout 60s;
    proxy_read_timeout {read_timeout}s;
    # Another server is asked where no connection was made, or where one broke under a GET or PUT; never a
    # second time for a POST that was sent, nor after a timeout: the first may still be at it.
    proxy_next_upstream error;
    proxy_intercept_errors off;
    proxy_redirect off;
    # Answers that a handler sends in parts arrive in parts.
    proxy_buffering off;

    location = /predictions/{canary.model} {{
        access_log "{canary.access_log}" torchmar;
        rewrite ^ /predictions/{canary.model}$torchmar_pin break;
        proxy_pass http://$torchmar_upstream;
    }}
    location / {{
        proxy_pass http://torchmar_servers;
    }}
}}
"""


def standalone(include: Path) -> str:
    """Return a whole nginx.conf around a configuration, for those who have none: `nginx -p FOLDER -c THIS`.

    Its process id, its log and its temporary files are in the folder given with -p.
    """
    _require(_PATH, str(include), "an absolute path of plain characters for the file to include")
    folders = "".join(
        f"    {what}_temp_path {what}_temp;\n"
        for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""\
worker_processes auto;
pid nginx.pid;
error_log error.log warn;

events {{
    worker_connections 1024;
}}

http {{
{folders}    access_log off;
    server_tokens off;
    include "{include}";
}}
"""


class Nginx:
    """Describes an nginx that includes `file`, which is written here, and logs predictions to `access_log`.

    It listens at `listen` (HOST:PORT) for the clients. `reload` is the command that makes it read the file;
    None means that somebody else does.
    """

    def __init__(self, file: Path, access_log: Path, listen: str, reload: str | None) -> None:
        self.file = file
        self.access_log = access_log
        self.listen = listen
        self.reload = reload

    def why_not(self, share: Share) -> str:
        """Return why this share cannot be set; '' where it can."""
        try:
            self._canary(share, self._read())
        except ReleaseError as error:
            return str(error)
        problem = why_not_writable(self.file.resolve().parent)
        return f"{self.file} cannot be written: {problem}" if problem else ""

    def set_share(self, share: Share) -> None:
        """Write the file and have nginx read it. Raises ReleaseError, and the file is as it was before."""
        previous = self._read()
        self._write(configuration(self._canary(share, previous)))
        problem = self._reload()
        if problem:
            if previous is None:
                self.file.unlink(missing_ok=True)
            else:
                self._write(previous)
            raise ReleaseError(f"{self.reload}: {problem}; {self.file} is as it was before")

    def clear(self, model: str, candidate: str) -> bool:
        """Send no request to a candidate any more; return whether nginx's file named it.

        Raises ReleaseError where nginx has not read that, though its file says so.
        """
        text = decode_text(self._read() or b"")
        if f'"{candidate}" torchmar_candidate;' not in text or f'"model":"{model}"' not in text:
            return False  # it never came to name the candidate, or was put back
        now = self._ours(text)
        assert now is not None
        self._write(configuration(replace(now, percent=0, default=None)))
        if problem := self._reload():
            raise ReleaseError(
                f"nginx may send to {model} {candidate} still: {self.file} gives it nothing any more, and "
                f"nginx has not read that: {self.reload}: {problem}"
            )
        return True

    def log(self, model: str) -> AccessLog:
        """Open the log of what is sent from now on. Raises ReleaseError."""
        return AccessLog(self.access_log, model)

    def _canary(self, share: Share, previous: bytes | None) -> Canary:
        """Return the share as nginx's configuration; the servers that nginx sends to already stay.

        Raises ReleaseError where it sends to others alone: clients would be sent away from those.
        """
        address = urlsplit(share.server)
        if address.scheme != "http":
            raise ReleaseError(
                f"nginx would ask {share.server} without TLS: a canary needs an http:// address"
            )
        now = self._ours(decode_text(previous or b""))
        servers = (address.netloc,) if now is None else now.upstreams
        if address.netloc not in servers:
            raise ReleaseError(
                f"{self.file}: nginx sends to {', '.join(servers)} by it, and not to {address.netloc}, the "
                "inference address of this server: give its address as it is there, or have nginx use "
                "another file"
            )
        return Canary(
            model=share.model,
            candidate=share.candidate,
            percent=share.percent,
            default=share.default,
            upstreams=servers,
            candidate_upstreams=(address.netloc,),
            access_log=self.access_log.resolve(),
            listen=self.listen,
            response_timeout=share.response_timeout,
            max_body=share.max_body,
        )

    def _ours(self, text: str) -> Canary | None:
        """Return what the file was made from; None for an empty one. Raises ReleaseError otherwise."""
        if not text.strip():
            return None
        found = described(text)
        if found is None and _OLDER_MARK in text:
            raise ReleaseError(
                f"{self.file}: write it anew (docs/canary.md), or empty it: an older torchmar has written "
                "it, and it does not hold what it was made from"
            )
        if found is None:
            raise ReleaseError(
                f"{self.file}: give --nginx a file of its own, which your configuration includes: what is in "
                "this one was not written by torchmar, and would be replaced"
            )
        return found

    def _read(self) -> bytes | None:
        """Return the file to the byte; None where there is none. Raises ReleaseError."""
        try:
            found = self.file.read_bytes() if self.file.exists() else None
            decode_text(found or b"")
        except (OSError, UnicodeDecodeError) as error:
            raise ReleaseError(f"{self.file}: nginx's configuration cannot be read: {error}") from None
        return found

    def _write(self, content: str | bytes) -> None:
        try:
            # Beside it, with a leading dot: nginx's `include folder/*` does not match that.
            replace_file(self.file, content.encode() if isinstance(content, str) else content)
        except OSError as error:
            raise ReleaseError(
                f"{self.file}: nginx's configuration cannot be written: {error.strerror}; what was there is "
                "unchanged"
            ) from None

    def _reload(self) -> str:
        """Return why nginx has not read the file; '' where it has, or somebody else sees to it."""
        if self.reload is None:
            return ""
        try:
            done = subprocess.run(
                shlex.split(self.reload),
                capture_output=True,
                text=True,
                timeout=_RELOAD_TIMEOUT,
                check=False,
            )
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            return str(error)
        return "" if done.returncode == 0 else (done.stderr.strip() or f"exit code {done.returncode}")


def _sides(canary: Canary) -> str:
    """Return the parts of split_clients, which takes neither 0 % nor a rest of nothing."""
    rest = canary.default or ""
    if canary.percent == 100:
        return f'    * "{canary.candidate}";'
    lines = [] if canary.percent == 0 else [f'    {_share(canary.percent, "")}% "{canary.candidate}";']
    return "\n".join([*lines, f'    * "{rest}";'])


def _share(percent: float, unit: str = " %") -> str:
    return f"{percent:.2f}".rstrip("0").rstrip(".") + unit


def _require(pattern: re.Pattern[str], value: str, what: str) -> None:
    if not pattern.fullmatch(value):
        raise ReleaseError(f"nginx: found {value!r}, expected {what}; nothing was written")


def _require_address(address: str) -> None:
    host, _, port = address.rpartition(":")
    good = port.isascii() and port.isdigit() and 0 < int(port) < 65536
    if good and host.startswith("[") and host.endswith("]"):
        try:
            good = ipaddress.ip_address(host[1:-1]).version == 6
        except ValueError:
            good = False
    elif good:
        good = _HOST.fullmatch(host) is not None
    if not good:
        raise ReleaseError(f"nginx: found the address {address!r}, expected HOST:PORT, as 127.0.0.1:8080")
