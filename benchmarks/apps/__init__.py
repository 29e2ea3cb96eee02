"""Holds the apps of the other servers: the same work behind their own interfaces."""
