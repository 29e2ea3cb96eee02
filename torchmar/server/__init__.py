"""Run TorchServe on this machine: find Java, read the configuration, start, wait, stop, read the log."""

from ._config import (
    LOG_CONFIG,
    ServerConfig,
    config_or_defaults,
    config_or_hardened,
    hardened_config,
    load_config,
    log_config,
    parse_properties,
    read_config,
)
from ._foreground import follow, take_orphans
from ._java import MINIMUM_JAVA, Java, find_java
from ._log import WorkerLog
from ._ports import free_ports, occupied, port_is_free, unused_ports
from ._room import Room, remove_half_unpacked, room_for, unpacking
from ._run import start, stop
from ._running import RunningServer, died, find_running, java_process, read_pid, state_file
from ._settings import doubtful, unreadable
from ._temporary import Place, room_needed, temporary_place

__all__ = [
    "LOG_CONFIG",
    "MINIMUM_JAVA",
    "Java",
    "Place",
    "Room",
    "RunningServer",
    "ServerConfig",
    "WorkerLog",
    "config_or_defaults",
    "config_or_hardened",
    "died",
    "doubtful",
    "find_java",
    "find_running",
    "follow",
    "free_ports",
    "hardened_config",
    "java_process",
    "load_config",
    "log_config",
    "occupied",
    "parse_properties",
    "port_is_free",
    "read_config",
    "read_pid",
    "remove_half_unpacked",
    "room_for",
    "room_needed",
    "start",
    "state_file",
    "stop",
    "take_orphans",
    "temporary_place",
    "unpacking",
    "unreadable",
    "unused_ports",
]
