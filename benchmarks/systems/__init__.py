"""Starts the servers of the comparison the same way, with the same requests, and ends them for certain."""

from .base import Endpoint, Failed, System, free_port, started

__all__ = ["Endpoint", "Failed", "System", "free_port", "started"]
