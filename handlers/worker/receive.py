"""Read what the frontend sends in large pieces.

TorchServe 0.12's worker calls the kernel for each field: some sixty calls of four bytes per request, and a
new buffer for each piece of its body. The frontend sends nothing more before it has its answer, so the worker
can read everything at once.
"""

from __future__ import annotations

import io
import socket
import sys

_CODEC = "ts.protocol.otf_message_handler"
_READER = "_retrieve_buffer"
_PIECE = 64 * 1024


def patch_socket_reader() -> None:
    """Replace TorchServe's socket reader; no-op outside a TorchServe worker or with an unknown version."""
    codec = sys.modules.get(_CODEC)
    if hasattr(codec, _READER) and not isinstance(getattr(codec, _READER), BufferedReader):
        setattr(codec, _READER, BufferedReader())


class BufferedReader:
    """Implements `_retrieve_buffer(connection, length)`: returns that many bytes as a bytearray."""

    def __init__(self) -> None:
        self._connection: socket.socket | None = None
        self._file: io.BufferedReader | None = None

    def __call__(self, connection: socket.socket, length: int) -> bytearray:
        """Return the bytes; exits if the frontend is gone, as TorchServe's own reader does."""
        if self._file is None or connection is not self._connection:
            self._connection = connection
            self._file = io.BufferedReader(connection.makefile("rb", buffering=0), _PIECE)
        data = bytearray(length)
        if self._file.readinto(data) < length:
            sys.exit(0)
        return data
