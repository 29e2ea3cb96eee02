"""Count the processors of this process, and choose a worker's number of threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def threads_for(threads: int | str, workers: int) -> int:
    """Return the threads of one worker: the given number, or for "auto" its share of the processors.

    At least 1. More threads than processors only take turns: with 2 workers of 2 threads each on 2
    processors, every request waits for all four.
    """
    return max(1, available_cpus() // max(1, workers)) if threads == "auto" else int(threads)


def available_cpus(root: Path = Path("/")) -> int:
    """Return the whole processors, at least 1, by the affinity mask and the quota of the container or unit.

    Python's own os.process_cpu_count (3.13) ignores the quota. A quota of 1.5 counts as 1: a second thread
    would be throttled half of the time, and the first one would wait for it.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in _cgroups(root) if (quota := _quota(folder)) is not None]
    return max(1, min(count, *map(int, quotas))) if quotas else count


def _cgroups(root: Path) -> Iterator[Path]:
    """Yield this process's cgroups up to the root; each of them limits it (cgroups(7)).

    In a container the mounted root is its own, and the path may be the host's.
    """
    mounts = {"": root / "sys/fs/cgroup", "cpu": root / "sys/fs/cgroup/cpu"}
    found = set(mounts.values())
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except OSError:
        lines = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in {"", "cpu"} & set(controllers.split(",")):
            own = PurePosixPath(path.lstrip("/"))
            found |= {
                mounts[controller] / parent for parent in (own, *own.parents) if ".." not in parent.parts
            }
    yield from sorted(found)


def _quota(folder: Path) -> float | None:
    """Return a cgroup's processors (docs.kernel.org, admin-guide/cgroup-v2, cpu.max; v1: cpu.cfs_*)."""
    try:
        quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return None  # "max", or -1: no limit
    return int(quota) / int(period)
