"""What is compared: servers that are started the same way, asked the same, and ended for certain."""

from .base import Endpoint, Failed, System, free_port, started

__all__ = ["Endpoint", "Failed", "System", "free_port", "started"]
