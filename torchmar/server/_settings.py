"""Find the values in config.properties that TorchServe cannot read, before it starts.

TorchServe stops at the first such value with a stack trace, or it starts and fails every connection.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from collections.abc import Iterator
from functools import partial
from ipaddress import ip_address

from ..errors import Problem
from ..names import shown
from ._config import ADDRESSES, FROM_ENVIRONMENT, ServerConfig

SOCKET_PATH = 103 if sys.platform == "darwin" else 107
"""The most bytes that the path of a Unix socket may have."""

# TorchServe's own pattern for an address; the whole value must match.
_ADDRESS = re.compile(
    r"(?P<scheme>https?)://(?P<host>[^:^/]+)(?::(?P<port>[0-9]+))?|unix:(?P<path>/.*)", re.I
)
_IPV6 = re.compile(
    r"(?P<scheme>https?)://(?:\[(?P<host>.*)\]|(?P<bare>[^@]*:[^@]*:[^@]*?))(?::(?P<port>[0-9]+))?/?", re.I
)
_LAST_PORT = 65534  # TorchServe refuses 65535

_NUMBERS = (
    "default_response_timeout",
    "default_startup_timeout",
    "default_workers_per_model",
    "grpc_inference_max_connection_age_grace_ms",
    "grpc_inference_max_connection_age_ms",
    "grpc_inference_port",
    "grpc_management_max_connection_age_grace_ms",
    "grpc_management_max_connection_age_ms",
    "grpc_management_port",
    "initial_distribution_port",
    "initial_worker_port",
    "io_ratio",
    "job_queue_size",
    "max_request_size",
    "max_response_size",
    "metric_time_interval",
    "netty_client_threads",
    "number_of_gpu",
    "number_of_netty_threads",
    "unregister_model_timeout",
)
_SWITCHES = (
    "async_logging",
    "cpu_launcher_enable",
    "debug",
    "decode_input_request",
    "disable_system_metrics",
    "disable_token_authorization",
    "enable_envvars_config",
    "enable_grpc_ssl",
    "enable_metrics_api",
    "enable_model_api",
    "install_py_dep_per_model",
    "ipex_enable",
    "ipex_gpu_enable",
    "limit_max_image_pixels",
    "model_metrics_auto_detect",
    "prefer_direct_buffer",
    "ts_open_inference_protocol",
    "use_env_allowed_urls",
    "use_native_io",
)


def unreadable(config: ServerConfig) -> list[Problem]:
    """Return each value that keeps TorchServe from starting or from answering."""
    unset = list(_unset(config))
    if unset:
        return unset
    found = [*map(partial(_address, config), ADDRESSES), *map(partial(_number, config), _NUMBERS)]
    found += map(partial(_mapping, config), ("models", "model_snapshot"))
    problems = [problem for problem in found if problem is not None]
    return problems or list(_shared_ports(config))


def _unset(config: ServerConfig) -> Iterator[Problem]:
    for key, value in config.settings.items():
        match = FROM_ENVIRONMENT.search(value)
        if match is not None:
            name = shown(match[1])
            what = f"{shown(key)} names $${name}$$, and there is no such variable in the environment"
            yield Problem(shown(key), what, remedy=f"export {name}, or write the value itself")


def doubtful(config: ServerConfig) -> Iterator[Problem]:
    """Yield each value that TorchServe silently reads as another."""
    for key in _SWITCHES:
        value = config.get(key)
        if value and value.lower() not in {"true", "false"}:
            what = f"{key}={shown(value)} is neither true nor false: TorchServe takes it for false"
            yield Problem(key, what, remedy=f"{key}=true, or {key}=false; nothing after it, no space either")


def _address(config: ServerConfig, key: str) -> Problem | None:
    value = config.get(key)
    setting = f"{key}={shown(value, 200)}"
    match = _ADDRESS.fullmatch(value)
    if match is None:
        six = _IPV6.fullmatch(value)
        remedy = f"write {key}=http://127.0.0.1:PORT, and nothing after it"
        return (
            Problem(key, f"{setting} is no address", remedy=remedy)
            if six is None
            else _ipv4_only(key, setting, six)
        )
    if match["path"]:
        length = len(os.fsencode(match["path"]))
        what = f"{setting}: the path of a socket may have {SOCKET_PATH} bytes, this one has {length}"
        return Problem(key, what, remedy="use a shorter one") if length > SOCKET_PATH else None
    if match["port"] and not 0 < int(match["port"]) <= _LAST_PORT:
        return Problem(key, f"{setting}: there is no such port", remedy=f"write one from 1 to {_LAST_PORT}")
    return _no_ipv4(key, setting, match)


def _ipv4_only(key: str, setting: str, match: re.Match[str]) -> Problem:
    try:
        everywhere = ip_address(match["host"] or match["bare"]).is_unspecified
    except ValueError:
        everywhere = False
    host, port = "0.0.0.0" if everywhere else "127.0.0.1", match["port"] or "PORT"  # noqa: S104 (as it was)
    remedy = f"write {key}={match['scheme']}://{host}:{port}"
    return Problem(key, f"{setting}: TorchServe listens on IPv4 addresses only", remedy=remedy)


def _no_ipv4(key: str, setting: str, match: re.Match[str]) -> Problem | None:
    """Check that a name has an IPv4 address here: TorchServe binds to one."""
    try:
        socket.getaddrinfo(match["host"], None, socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        what = (
            f"{setting}: {shown(match['host'])} has no IPv4 address here, and TorchServe listens on no other"
        )
        return Problem(key, what, remedy="write the address itself, as 127.0.0.1")
    return None


def _number(config: ServerConfig, key: str) -> Problem | None:
    """Check the value by Java's Integer.parseInt: no space, no fraction, no unit."""
    value = config.settings.get(key)
    if value is None:
        return None
    is_port = key.startswith("grpc_") and key.endswith("_port")
    bits = 16 if is_port else 64 if key.endswith("_ms") else 32
    low, high = (1, 2**bits - 1) if is_port else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    if re.fullmatch(r"[+-]?[0-9]{1,19}", value) and low <= int(value) <= high:
        return None
    what = f"{key}={shown(value)} is no whole number that TorchServe can read"
    ends = " (the space at its end counts)" if value.strip() != value else ""
    return Problem(key, what + ends, remedy=f"write {key}=NUMBER, or remove the line")


def _mapping(config: ServerConfig, key: str) -> Problem | None:
    value = config.get(key)
    if not value:
        return None
    try:
        if isinstance(json.loads(value), dict):
            return None
    except (ValueError, RecursionError):
        pass
    what = f"{key} is no JSON object, and TorchServe does not start with it"
    return Problem(key, what, remedy="correct the line, or remove it")


def _shared_ports(config: ServerConfig) -> Iterator[Problem]:
    """Find listeners that share a port; only inference and management may, and only without tokens."""
    used: dict[int, str] = {}
    for key, port in config.ports().items():
        other = used.setdefault(port, key)
        may = (other, key) == ("inference_address", "management_address")
        is_usable = config.is_true("disable_token_authorization") or config.inference != config.management
        if other == key or (may and is_usable):
            continue
        why = ": no token can satisfy both checks" if may else ""
        yield Problem(key, f"{key} and {other} are both on port {port}{why}", remedy="give each its own port")
