"""The processors that a worker may use: the affinity mask and the container's quota, divided among
workers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from handlers.worker import cpus
from handlers.worker.cpus import available_cpus, threads_for


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 8 processors."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


V2 = {"proc/self/cgroup": "0::/"}
UNIT = "sys/fs/cgroup/system.slice/torchserve.service"
IN_UNIT = {"proc/self/cgroup": "0::/system.slice/torchserve.service"}
V1 = {"proc/self/cgroup": "5:memory:/a\n4:cpu,cpuacct:/docker/b"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"sys/fs/cgroup/cpu.max": "200000 100000"}, 2),
        ({**V2, "sys/fs/cgroup/cpu.max": "max 100000"}, 8),
        ({**V2, "sys/fs/cgroup/cpu.max": "200000 100000"}, 2),
        ({**V2, "sys/fs/cgroup/cpu.max": "150000 100000"}, 1),
        ({**V2, "sys/fs/cgroup/cpu.max": "50000 100000"}, 1),
        ({**V2, "sys/fs/cgroup/cpu.max": "9900000 100000"}, 8),
        ({**V2, "sys/fs/cgroup/cpu.max": "nonsense"}, 8),
        ({**V2, "sys/fs/cgroup/cpu.max": "100000 0"}, 8),
        ({**IN_UNIT, f"{UNIT}/cpu.max": "200000 100000"}, 2),
        ({**IN_UNIT, f"{UNIT}/cpu.max": "max 100000", f"{UNIT}/../cpu.max": "300000 100000"}, 3),
        ({**IN_UNIT, f"{UNIT}/cpu.max": "400000 100000", f"{UNIT}/../cpu.max": "300000 100000"}, 3),
        ({**IN_UNIT, "sys/fs/cgroup/cpu.max": "300000 100000"}, 3),  # a path of the host, in a container
        ({"proc/self/cgroup": "0::/../x", "sys/fs/cgroup/cpu.max": "300000 100000"}, 3),
        ({"proc/self/cgroup": "nonsense"}, 8),
        ({**V1, "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000"}, 8),
        (
            {
                **V1,
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            3,
        ),
        (
            {
                **V1,
                "sys/fs/cgroup/cpu/docker/b/cpu.cfs_quota_us": "200000",
                "sys/fs/cgroup/cpu/docker/b/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            2,
        ),
    ],
)
@pytest.mark.usefixtures("eight")
def test_quotas_count(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    """Whole processors, at least one; what cannot be read is no limit. Both generations of cgroups, of a
    container and of a unit of systemd; the least of a group and those that it is in.
    """
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert available_cpus(tmp_path) == expected


@pytest.mark.usefixtures("eight")
def test_a_group_whose_name_is_no_utf_8_counts_too(tmp_path: Path) -> None:
    """Names are bytes to the kernel, and no worker must die of one."""
    name = b"\xff\xc2\x85"  # the latter is a line break to Python, and none to the kernel
    group = tmp_path / "sys/fs/cgroup" / os.fsdecode(name)
    group.mkdir(parents=True)
    (group / "cpu.max").write_text("200000 100000\n")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_bytes(b"0::/" + name + b"\n")
    assert available_cpus(tmp_path) == 2


def test_the_affinity_mask_counts() -> None:
    """What `taskset` or a cpuset allows, and not what the machine has."""
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert available_cpus() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("threads", "workers", "expected"),
    [
        ("auto", 1, 8),
        ("auto", 2, 4),
        ("auto", 3, 2),
        ("auto", 8, 1),
        ("auto", 20, 1),
        ("auto", 0, 8),
        (5, 4, 5),
    ],
)
def test_workers_divide_the_processors(
    monkeypatch: pytest.MonkeyPatch, threads: int | str, workers: int, expected: int
) -> None:
    """Never more threads in all than processors, unless told so or with more workers than processors."""
    monkeypatch.setattr(cpus, "available_cpus", lambda: 8)
    assert threads_for(threads, workers) == expected
