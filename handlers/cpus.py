"""How many processors this process may use, and so with how many threads a worker should compute."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def threads_for(threads: int | str, workers: int) -> int:
    """The threads of one worker: as told, or for "auto" its share of the processors, at least 1.

    More threads than processors only take turns: with 2 workers of 2 threads each on 2 processors every
    request waits for all four.
    """
    return max(1, available_cpus() // max(1, workers)) if threads == "auto" else int(threads)


def available_cpus(cgroup: Path = CGROUP) -> int:
    """Whole processors: the affinity mask, and the quota of the container where there is one; at least 1.

    Python's own os.process_cpu_count (3.13) knows the mask only. A quota of 1.5 counts as 1: the second
    thread would be throttled half of the time, and the first one would wait for it.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroup)
    return count if quota is None else max(1, min(count, int(quota)))


def _quota(cgroup: Path) -> float | None:
    """Processors that the cgroup grants (docs.kernel.org, admin-guide/cgroup-v2, cpu.max; v1: cpu.cfs_*)."""
    try:
        quota, period = (cgroup / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return None  # "max", or -1: no limit
    return int(quota) / int(period)
