"""The same on many servers at once: one that is silent must not delay all the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace

from ..errors import TorchmarError
from ._fleet import Fleet
from ._host import Host
from ._interrupts import Stopped, noted_interrupts, until

_AT_ONCE = 32


def for_each_host(
    fleet: Fleet, hosts: Sequence[Host], act: Callable[[Fleet, Host], None], patience: float | None = None
) -> dict[str, str]:
    """What went wrong, by the host's name; one that fails keeps no other one from its turn.

    What is under way after `patience` seconds goes on unattended; None: it is waited for. Ctrl-C ends what
    waits by the clock or sleep of the site that `act` is given, lets calls come to their end, and is raised.
    """
    with noted_interrupts() as interrupted:
        ending = replace(fleet, clock=until(interrupted, fleet.clock), sleep=until(interrupted, fleet.sleep))

        def tried(host: Host) -> str | None:
            try:
                act(ending, host)
            except (TorchmarError, OSError) as problem:
                return str(problem)
            except Stopped:
                pass
            return None

        pool = ThreadPoolExecutor(min(_AT_ONCE, max(1, len(hosts))))
        try:
            under_way = {pool.submit(tried, host): host.name for host in hosts}
            done = wait(under_way, timeout=patience).done
        finally:
            pool.shutdown(wait=patience is None)
    if interrupted.is_set():
        raise KeyboardInterrupt
    found = {name: one.result() for one, name in under_way.items() if one in done}
    return {name: problem for name, problem in found.items() if problem is not None}
