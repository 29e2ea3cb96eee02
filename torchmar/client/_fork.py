"""What a forked process needs anew: locks that a thread of its parent may have held, and connections.

As after `gunicorn --preload`, or in Celery. Each use asks for the process's number instead of relying on
os.register_at_fork, whose hooks do not run where a program written in C forks, as uWSGI does.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import requests
from requests.adapters import HTTPAdapter


class ForkLock:
    """A lock of one process. A child gets a new one: nobody there would release that of its parent.

    `in_child` is called when the lock is first taken in a child, and held meanwhile.
    """

    def __init__(self, in_child: Callable[[], None] = lambda: None) -> None:
        self._in_child = in_child
        self._pid = os.getpid()
        self._locks = {self._pid: threading.Lock()}

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold it."""
        pid = os.getpid()
        with self._locks.setdefault(pid, threading.Lock()) as _:  # one for all threads: setdefault is atomic
            if self._pid != pid:
                self._in_child()
                # The parent's is forgotten: its number may be that of a child of ours some day.
                self._locks = {pid: self._locks[pid]}
                self._pid = pid
            yield


def renew_connections(session: requests.Session) -> None:
    """Give a session that was inherited connections of its own; answers would go to whoever reads first.

    The parent's are not closed in order, which takes locks, but forgotten: the parent still has them.
    """
    # Where the jar's lock was held, it is held for ever.
    vars(session.cookies)["_cookies_lock"] = threading.RLock()
    for adapter in session.adapters.values():
        if not isinstance(adapter, HTTPAdapter):
            continue
        for manager in (adapter.poolmanager, *adapter.proxy_manager.values()):
            _forget_connections(manager)
        unpickled: Any = adapter  # as what was unpickled it has pools of its own
        unpickled.__setstate__(unpickled.__getstate__())


def _forget_connections(manager: object) -> None:
    """Empty the queues of a manager's pools: urllib3 takes their locks to close what is left, and at exit."""
    pools = getattr(getattr(manager, "pools", None), "_container", {})
    for pool in list(pools.values()):
        queue = getattr(pool, "pool", None)
        if queue is not None:
            type(queue).__init__(queue, queue.maxsize)
