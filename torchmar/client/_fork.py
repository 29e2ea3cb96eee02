"""Renew what a forked process must not inherit: locks that a parent's thread may hold, and connections.

Forks happen with `gunicorn --preload` and in Celery. Each use compares the process's number.
os.register_at_fork is no help: its hooks do not run when a C program such as uWSGI forks.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import requests
from requests.adapters import HTTPAdapter


class ForkLock:
    """A lock for one process. A child gets a new one, because nobody there would release the parent's.

    The first use in a child calls `in_child` while it holds the lock.
    """

    def __init__(self, in_child: Callable[[], None] = lambda: None) -> None:
        self._in_child = in_child
        self._pid = os.getpid()
        self._locks = {self._pid: threading.Lock()}

    def held(self) -> threading.Lock:
        """Return this process's lock, for a `with`.

        A generator in its place would keep the lock where Ctrl-C comes between its `with` and the caller's.
        """
        pid = os.getpid()
        # setdefault is atomic: all threads get the same lock
        lock = self._locks.setdefault(pid, threading.Lock())
        if self._pid != pid:
            with lock:
                if self._pid != pid:
                    self._in_child()
                    # Drop the parent's entry: a later child may get its process number.
                    self._locks = {pid: lock}
                    self._pid = pid
        return lock


def renew_connections(session: requests.Session) -> None:
    """Give an inherited session its own connections, because shared ones would mix up responses.

    Drops the parent's connections without closing them: closing takes locks, and the parent still uses them.
    """
    # If a thread of the parent held the cookie jar's lock, nobody releases it here.
    vars(session.cookies)["_cookies_lock"] = threading.RLock()
    for adapter in session.adapters.values():
        if not isinstance(adapter, HTTPAdapter):
            continue
        for manager in (adapter.poolmanager, *adapter.proxy_manager.values()):
            _forget_connections(manager)
        unpickled: Any = adapter  # unpickling an adapter gives it pools of its own
        unpickled.__setstate__(unpickled.__getstate__())


def _forget_connections(manager: object) -> None:
    """Empty the queues of a manager's pools: urllib3 takes their locks when it closes them, also at exit."""
    pools = getattr(getattr(manager, "pools", None), "_container", {})
    for pool in list(pools.values()):
        queue = getattr(pool, "pool", None)
        if queue is not None:
            type(queue).__init__(queue, queue.maxsize)
