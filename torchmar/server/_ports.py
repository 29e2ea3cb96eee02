"""Find free ports."""

from __future__ import annotations

import errno
import os
import random
import re
import socket
from pathlib import Path

from ..errors import ServerError
from ._config import ServerConfig

FREE_PORTS = "TORCHMAR_FREE_PORTS"
_OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")


def port_is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Return whether nothing listens there now."""
    return not _why_not(port, host)


def occupied(config: ServerConfig) -> dict[str, str]:
    """Return each setting whose port a server could not listen on, with the reason."""
    found = {key: _why_not(port, config.host(key)) for key, port in config.ports().items()}
    return {key: why for key, why in found.items() if why}


def _why_not(port: int, host: str) -> str:
    """Return why nothing can listen there; '' if something can."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return f"port {port} is in use by another program"
            if error.errno == errno.EADDRNOTAVAIL:
                return f"{host} is no address of this machine"
            return f"{host}:{port}: {error.strerror or error}"
        except OverflowError:
            return f"there is no port {port}"
    return ""


def unused_ports(count: int) -> list[int]:
    """Return that many different, unused ports of 127.0.0.1.

    The server starts a second or more later; meanwhile another program may take a port. So this skips the
    ports that the system gives to outgoing connections. To keep several servers apart that start at the same
    time, set TORCHMAR_FREE_PORTS=FIRST-LAST. Raises ServerError if too few are free, or the range is invalid.
    """
    given = os.environ.get(FREE_PORTS)
    ports = _named(given) if given else _usual()
    found: list[int] = []
    # At random, because other programs choose at the same time.
    for port in random.SystemRandom().sample(ports, len(ports)):
        if port_is_free(port):
            found.append(port)
            if len(found) == count:
                return found
    where = f" of {FREE_PORTS}={given}" if given else ""
    raise ServerError(f"fewer than {count} ports of 127.0.0.1 are free{where}")


def _named(given: str) -> range:
    found = re.fullmatch(r"([0-9]{1,5})-([0-9]{1,5})", given)
    ports = range(int(found[1]), int(found[2]) + 1) if found else range(0)
    if not ports or ports[0] < 1 or ports[-1] > 65535:
        what = "give the first and the last port, as 20000-20999"
        raise ServerError(f"{FREE_PORTS}: found {given!r}; {what}")
    return ports


def _usual() -> range:
    """Return a range from 20000: many programs use agreed ports below that."""
    end = min(_first_outgoing(), 49152)
    return range(min(20000, max(1024, end - 10000)), end) or range(1024, 65536)


def _first_outgoing() -> int:
    """Return the first port for outgoing connections: the system's on Linux, IANA's elsewhere."""
    try:
        return int(_OUTGOING.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 49152


def free_ports(config: ServerConfig) -> ServerConfig:
    """Return the same configuration on unused ports, all on 127.0.0.1."""
    numbers = unused_ports(6)
    scheme = "https" if config.get("inference_address").lower().startswith("https") else "http"
    addresses = ("inference_address", "management_address", "metrics_address")
    changes = {key: f"{scheme}://127.0.0.1:{numbers.pop()}" for key in addresses}
    changes |= {key: str(numbers.pop()) for key in ("grpc_inference_port", "grpc_management_port")}
    changes["initial_worker_port"] = str(numbers.pop())  # names of sockets, not ports, on Unix
    return config.with_settings(changes)
