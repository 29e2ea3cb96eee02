"""The same on many servers at once: one that is silent must not delay all the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from ..errors import TorchmarError
from ._host import Host

_AT_ONCE = 32


def together(hosts: Sequence[Host], act: Callable[[Host], None]) -> dict[str, str]:
    """What went wrong, by the host's name; one that fails keeps no other one from its turn."""

    def tried(host: Host) -> str | None:
        try:
            act(host)
        except (TorchmarError, OSError) as problem:
            return str(problem)
        return None

    with ThreadPoolExecutor(min(_AT_ONCE, max(1, len(hosts)))) as pool:
        found = list(pool.map(tried, hosts))
    return {host.name: problem for host, problem in zip(hosts, found, strict=True) if problem is not None}
