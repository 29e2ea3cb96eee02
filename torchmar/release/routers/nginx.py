"""A canary in nginx: the configuration that sends a share of a model's predictions to a candidate version.

TorchServe cannot split traffic, and a load balancer in front of it can: `split_clients` chooses a version by
a hash of who asks, and the request goes to the URL that is pinned to it. Directives and their rules are those
of nginx.org/en/docs/http/ (split_clients, map, proxy, upstream); tested with nginx 1.22 of Debian 12.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...errors import ReleaseError

# Names and versions come from archives, which anyone may have made: nothing that means something to nginx.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")
_HEADER = re.compile(r"[A-Za-z0-9][A-Za-z0-9\-]*")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.\-]*[A-Za-z0-9])?")
_PATH = re.compile(r"/[A-Za-z0-9_.,:@%+=/ \-]*")
_MARK = "# Written by `torchmar release`"


@dataclass(frozen=True)
class Canary:
    """What share of a model's predictions goes where.

    `percent` (0 to 100, two decimals) of the unpinned predictions go to version `candidate`, the rest to
    version `default`; None leaves the rest unpinned, to whatever version is the server's default.

    `listen` and `upstreams` are HOST:PORT; the latter are inference addresses of servers. The candidate is
    on `candidate_upstreams`, () means on all of them. The same value of the header `key_header` always gets
    the same side; a request without it goes by the client's address. `access_log` is where predictions that
    were split are told, see access_log.py. `response_timeout` in seconds is the longer one of both versions.
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
    """A file to `include` in nginx's http block."""
    return f"""\
# {_share(canary.percent)} of {canary.model} to version {canary.candidate}.
{_MARK}, which replaces it at each step.

{_log(canary)}
{_split(canary)}
# A server is never put aside for a while: a burst of bad requests, whose connections TorchServe resets, must
# not make nginx answer 502 to good ones. A server that is down refuses at once, and the next one is asked.
{_upstream("torchmar_servers", canary.upstreams)}
{_upstream("torchmar_candidate", canary.candidate_upstreams or canary.upstreams)}
{_server(canary)}"""


def servers_of(text: str) -> tuple[str, ...]:
    """The upstreams of a configuration that was written here, () of another text."""
    block = re.search(r"^upstream torchmar_servers \{$(.*?)^\}$", text, re.DOTALL | re.MULTILINE)
    return () if block is None else tuple(re.findall(r"^ *server (\S+) ", block[1], re.MULTILINE))


def is_ours(text: str) -> bool:
    """Whether a configuration was written here: any other one must not be replaced. An empty one may be."""
    return not text.strip() or _MARK in text


def knows(text: str, candidate: str) -> bool:
    """Whether a configuration that was written here may send somebody to this version."""
    return f'"{candidate}" torchmar_candidate;' in text


def _log(canary: Canary) -> str:
    return f"""\
log_format torchmar escape=json
    '{{"time":$msec,"model":"{canary.model}","version":"$torchmar_version","status":"$status",'
    '"seconds":$request_time,"upstream_seconds":"$upstream_response_time","upstream":"$upstream_addr"}}';
"""


def _split(canary: Canary) -> str:
    """Who asks, which version answers, and where that is."""
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
    """A whole nginx.conf around a configuration, for those who have none: `nginx -p FOLDER -c THIS`.

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


def write(path: Path, text: str | bytes) -> None:
    """Put a configuration in place whole: beside, fsync, rename. Raises ReleaseError.

    nginx reads it at its next reload; `nginx -t` before says whether it can.
    """
    temporary: Path | None = None
    try:
        target = path.resolve()  # a link, as in sites-enabled, stays one
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o644
        # A leading dot: nginx's `include folder/*` does not match it.
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(text.encode() if isinstance(text, str) else text)
            opened.flush()
            os.fchmod(opened.fileno(), mode)
            os.fsync(opened.fileno())
        temporary.replace(target)
    except OSError as error:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()
        what = (
            f"{path}: nginx's configuration cannot be written: {error.strerror}; what was there is unchanged"
        )
        raise ReleaseError(what) from None


def _sides(canary: Canary) -> str:
    """The parts of split_clients, which takes neither 0 % nor a rest of nothing."""
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
