"""Configure a worker process once, before it loads a model: its memory allocator and its log."""

from __future__ import annotations

import ctypes
import logging
from contextlib import suppress

MEGABYTE = 2**20

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def configure_process() -> None:
    """Configure this process. Call it first; further calls change nothing."""
    _keep_freed_memory()
    root = logging.getLogger()
    if _drop_per_batch_log not in root.filters:
        root.addFilter(_drop_per_batch_log)


def _keep_freed_memory() -> None:
    """Let glibc keep what a request frees for the next one, within bounds (mallopt(3)).

    By default glibc may map and unmap memory for each decoded picture. The kernel then zeroes some 480 pages
    per request, a millisecond of ResNet-18's seventeen in int8.
    """
    with suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, 16 * MEGABYTE)
        libc.mallopt(_M_TRIM_THRESHOLD, 32 * MEGABYTE)


def give_back_freed_memory() -> None:
    """Return freed memory after a large task that does not recur; otherwise it counts as this worker's."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _drop_per_batch_log(record: logging.LogRecord) -> bool:
    """Return False for the line that TorchServe's worker logs for each batch.

    The frontend reads, matches and logs each line, which costs it time.
    """
    return record.msg != "Backend received inference at: %d"
