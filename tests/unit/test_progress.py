"""Signs of life: a line now and then where there is no terminal, nothing of what is over soon."""

from __future__ import annotations

import re
import threading
import time

import pytest

from torchmar.cli import _output, tuning


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
    """What it is at and for how long; the next step when it has begun; and again when it goes on."""
    monkeypatch.setattr(_output, "_BETWEEN_LINES", 0.02)
    with _output.progress("a[b].mar") as step:
        assert wait_for(capsys, "\n") == "a[b].mar: under way (0 s)\n"
        step("unpacking")
        assert wait_for(capsys, "\n") == "a[b].mar: unpacking (0 s)\n"
        monkeypatch.setattr(_output, "_STILL", 0.01)
        assert wait_for(capsys, "\n").startswith("a[b].mar: unpacking (")
    assert capsys.readouterr().out == ""


def test_what_is_over_soon_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Nor does one that has ended go on telling; an error passes."""
    before = threading.active_count()

    def fail() -> None:
        with _output.progress("x") as step:
            step("y")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert capsys.readouterr() == ("", "")
    assert threading.active_count() == before


def test_one_step_is_told_once_for_a_while(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with each look: a log must not fill."""
    monkeypatch.setattr(_output, "_BETWEEN_LINES", 0.001)
    with _output.progress("x") as step:
        step("one")
        told = wait_for(capsys, "one")
        step("two")
        told += wait_for(capsys, "two")
    assert told.count("one") == 1
    assert told.count("two") == 1


def test_the_tuner_tells_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a pipe, too."""
    monkeypatch.setattr(_output, "_BETWEEN_LINES", 0.01)
    with tuning._bar("m.mar") as advance:
        advance(3, 12, "2 workers")
        assert "m.mar: 2 workers (3 done, 12 at most)" in wait_for(capsys, "at most")
