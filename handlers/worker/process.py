"""What a worker process settles once, before it loads a model: its memory allocator and its log."""

from __future__ import annotations

import ctypes
import logging
from contextlib import suppress

MEGABYTE = 2**20

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def settle() -> None:
    """Call it first; calling it again changes nothing."""
    _keep_freed_memory()
    root = logging.getLogger()
    if _is_news not in root.filters:
        root.addFilter(_is_news)


def _keep_freed_memory() -> None:
    """Let glibc keep what a request frees for the next one, within bounds (mallopt(3)).

    By default a decoded picture is mapped and unmapped for each request, or not, as chance has it: the kernel
    then zeroes some 480 pages a request, a millisecond of ResNet-18's seventeen in int8.
    """
    with suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, 16 * MEGABYTE)
        libc.mallopt(_M_TRIM_THRESHOLD, 32 * MEGABYTE)


def give_back_freed_memory() -> None:
    """After something large that does not happen again; what glibc keeps would count as this worker's."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _is_news(record: logging.LogRecord) -> bool:
    """TorchServe's worker prints this line for each batch, and the frontend reads, matches and logs it."""
    return record.msg != "Backend received inference at: %d"
