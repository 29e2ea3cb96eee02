"""Taking turns on a machine that is shared."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from benchmarks import lock
from benchmarks.lock import MachineLock


def is_free(file: Path, how: int) -> bool:
    """Whether someone else could lock it so, now."""
    with file.open("a") as handle:
        try:
            fcntl.flock(handle, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_measuring_keeps_others_out_until_it_ends(tmp_path: Path) -> None:
    """Between two measurements, too; afterwards everyone may come."""
    file = tmp_path / "lock"
    with MachineLock(file) as held:
        for _ in range(2):
            with held.alone():
                assert not is_free(file, fcntl.LOCK_SH)
            assert not is_free(file, fcntl.LOCK_SH)
    assert is_free(file, fcntl.LOCK_EX)


def test_others_have_their_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a measurement that ends when it was held for long."""
    monkeypatch.setattr(lock, "_HOLD_SECONDS", 0.0)
    file = tmp_path / "lock"
    with MachineLock(file) as held:
        with held.alone():
            pass
        assert is_free(file, fcntl.LOCK_EX)


def test_building_goes_along_with_building(tmp_path: Path) -> None:
    """And not with measuring."""
    file = tmp_path / "lock"
    with MachineLock(file) as held, held.building():
        assert is_free(file, fcntl.LOCK_SH)
        assert not is_free(file, fcntl.LOCK_EX)


def test_without_a_file_there_is_no_lock() -> None:
    """As on a machine of one's own."""
    with MachineLock(None) as held, held.building(), held.alone():
        pass
