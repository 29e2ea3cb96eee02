"""Signs of life: a line now and then where there is no terminal, nothing of what is over soon."""

from __future__ import annotations

import re
import threading
import time

import pytest

from torchmar.cli import _under_way
from torchmar.cli._under_way import progress


def wait_for(capsys: pytest.CaptureFixture[str], pattern: str) -> str:
    """What was printed until it matches."""
    seen = ""
    end = time.monotonic() + 20
    while not re.search(pattern, seen):
        assert time.monotonic() < end, seen
        threading.Event().wait(0.01)
        seen += capsys.readouterr().err
    return seen


def test_a_long_step_is_told_in_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it is at and for how long; the next step when it has begun."""
    monkeypatch.setattr(_under_way, "_ELSEWHERE", 0.02)
    with progress("a[b].mar") as step:
        assert wait_for(capsys, "\n").startswith("a[b].mar: under way (0 s)\n")
        step("unpacking")
        assert "a[b].mar: unpacking (0 s)\n" in wait_for(capsys, "unpacking .*\n")
    assert capsys.readouterr().out == ""


def test_what_is_over_soon_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Nor does one that has ended go on telling; an error passes."""
    before = threading.active_count()

    def fail() -> None:
        with progress("x") as step:
            step("y")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert capsys.readouterr() == ("", "")
    assert threading.active_count() == before
