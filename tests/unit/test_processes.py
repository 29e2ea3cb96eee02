"""A process is known by its number and its start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from torchmar import processes
from torchmar.processes import Process, by_token, handling, identify, own_token


def test_this_process_is_alive() -> None:
    """And is the same each time it is identified."""
    own = identify(os.getpid())
    assert own is not None
    assert own.is_alive()


def test_another_process_of_the_same_number_is_not_it() -> None:
    """Numbers are used again; starts are not."""
    own = identify(os.getpid())
    assert own is not None
    assert not replace(own, started="another").is_alive()


def test_a_process_that_has_ended_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while it waits for its parent to ask what came of it; by /proc and by ps."""
    for by_proc in (True, False):
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
            if not by_proc:
                monkeypatch.setattr(processes, "_started_by_proc", processes._started_by_ps)
            found = identify(child.pid)
            assert found is not None
            assert found.is_alive()
            assert child.stdin is not None
            child.stdin.close()
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            assert not found.is_alive()
        assert identify(child.pid) is None


def test_no_process_has_no_number() -> None:
    """Zero and negative numbers mean groups to the system."""
    assert identify(0) is None
    assert identify(-1) is None
    assert not Process(0, "").is_alive()


def test_a_token_tells_whose_it_is() -> None:
    """Of this process while it runs; of none where the number is another's, or the text is no token."""
    found = by_token(own_token())
    assert found == identify(os.getpid())
    for text in (f"{os.getpid()}-00000000", str(os.getpid()), "", "x-y", "-1-0", "9" * 30, "\u0661-0"):
        assert by_token(text) is None


def test_signals_are_handled_for_a_while() -> None:
    """And as before afterwards; in another thread, which cannot, nothing changes."""
    before = signal.getsignal(signal.SIGUSR1)
    heard: list[int] = []
    found: list[object] = []

    def elsewhere() -> None:
        with handling(lambda number, _: heard.append(number), signal.SIGUSR1):
            found.append(signal.getsignal(signal.SIGUSR1))

    with handling(lambda number, _: heard.append(number), signal.SIGUSR1):
        signal.raise_signal(signal.SIGUSR1)
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert (heard, found) == ([signal.SIGUSR1], [before])
    assert signal.getsignal(signal.SIGUSR1) == before
