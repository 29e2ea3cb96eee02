"""TMPDIR is so long that no worker could bind its socket there."""

from __future__ import annotations

from pathlib import Path

import pytest

from .serving import Typed

pytestmark = pytest.mark.live


def test_another_folder_is_used_and_said(tmp_path: Path) -> None:
    """doctor warns, serve says which folder it takes instead, and workers start."""
    scratch = tmp_path / "partition-gpu-long" / "user-with-a-long-name" / "job.18273645.batch" / "node-0042"
    scratch.mkdir(parents=True)
    torchmar = Typed(tmp_path / "served", TMPDIR=str(scratch))
    said = torchmar("doctor")
    assert f"{scratch}: is too long" in said
    assert "`torchmar serve` uses /tmp" in said
    try:
        facts = torchmar.json("serve")
        assert facts["temporary"].startswith("/tmp/torchmar-")
        assert [str(scratch) in note for note in facts["notes"]] == [True]
        assert "echo 1.0: 1 READY" in torchmar("register", "echo-1.0.mar")
    finally:
        torchmar.end()
