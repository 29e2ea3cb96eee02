"""Reading the PSS of processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from torchmar.measure.memory import parse_smaps_rollup, pss_bytes, tree, tree_mb

ROLLUP = """\
55d4c8a00000-7ffd1c3f2000 ---p 00000000 00:00 0                          [rollup]
Rss:               10240 kB
Pss:                4321 kB
Pss_Dirty:          1000 kB
Shared_Clean:       6000 kB
"""

linux = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux tells the PSS")


def test_the_line_is_found() -> None:
    """Pss, and not one of those that begin like it."""
    assert parse_smaps_rollup(ROLLUP) == 4321 * 1024


def test_without_the_line() -> None:
    """Is an error, not 0."""
    with pytest.raises(ValueError, match="Pss"):
        parse_smaps_rollup("Rss: 1 kB\n")
    with pytest.raises(ValueError, match="kB"):
        parse_smaps_rollup("Pss: 1 MB\n")


def test_it_is_read_from_proc(tmp_path: Path) -> None:
    """And a process that has ended holds nothing."""
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "smaps_rollup").write_text(ROLLUP)
    assert pss_bytes(7, tmp_path) == 4321 * 1024
    assert pss_bytes(8, tmp_path) == 0


@linux
def test_a_tree_is_counted_whole() -> None:
    """A child that holds 50 MB shows in its parent's tree, and only while it lives."""
    code = "data = b'x' * 50_000_000; print('ready', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert child.pid in tree(os.getpid())
        assert tree_mb([child.pid]) > 50
        assert tree_mb([os.getpid()]) > tree_mb([child.pid])
        child.communicate("\n")
    assert tree(child.pid) == []
    assert tree_mb([child.pid]) == 0
