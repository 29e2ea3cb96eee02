"""TorchServe on this machine: find Java, read its configuration, start it, wait, stop it, read its log."""

from ._config import (
    LOG_CONFIG,
    ServerConfig,
    config_or_defaults,
    hardened_config,
    log_config,
    parse_properties,
    read_config,
)
from ._java import MINIMUM_JAVA, Java, find_java
from ._log import WorkerLog
from ._ports import free_ports, port_is_free, unused_ports
from ._run import RunningServer, died, find_running, start, stop

__all__ = [
    "LOG_CONFIG",
    "MINIMUM_JAVA",
    "Java",
    "RunningServer",
    "ServerConfig",
    "WorkerLog",
    "config_or_defaults",
    "died",
    "find_java",
    "find_running",
    "free_ports",
    "hardened_config",
    "log_config",
    "parse_properties",
    "port_is_free",
    "read_config",
    "start",
    "stop",
    "unused_ports",
]
