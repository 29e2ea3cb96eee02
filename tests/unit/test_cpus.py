"""The processors that a worker may use: the affinity mask and the container's quota, divided among
workers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from handlers import cpus
from handlers.cpus import available_cpus, threads_for


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 8 processors."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": "200000 100000"}, 2),
        ({"cpu.max": "150000 100000"}, 1),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "9900000 100000"}, 8),
        ({"cpu.max": "nonsense"}, 8),
        ({"cpu.max": "100000 0"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
    ],
)
@pytest.mark.usefixtures("eight")
def test_a_containers_quota_counts(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    """Whole processors, at least one; what cannot be read is no limit. Both generations of cgroups."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert available_cpus(tmp_path) == expected


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
