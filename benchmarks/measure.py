"""Visits a system: launches it, warms it up, loads it, measures its memory, and ends it."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from torchmar.measure import memory
from torchmar.measure.load import Answer, Result

from .limit import Limit
from .systems import Endpoint, Failed, System
from .systems.base import first_answer

ROOT = Path(__file__).resolve().parent.parent

LAUNCH_SECONDS = 180.0  # at most
_TOLERANCE = 1e-4  # of a probability; batches of other sizes round otherwise


@dataclass(frozen=True)
class Phase:
    """Describes one load within a visit; times are in seconds."""

    label: str
    clients: int
    content: Path
    seconds: float
    warmup: float
    warmup_max: float


@dataclass(frozen=True)
class Visit:
    """Holds the results of one visit: seconds from the start to the first 200, and each phase's result.

    `pss_mb` (10^6 bytes) is the memory of the whole tree of processes after the last load.
    """

    launch_s: float
    answer: str
    loads: Mapping[str, Result]
    pss_mb: float
    limits: tuple[Limit, ...] = ()

    def of_limit(self, label: str) -> float | None:
        """Return a load's rate as a share of the rate without a server, just before and after the load."""
        if not self.limits:
            return None
        index = list(self.loads).index(label)
        return self.loads[label].rps / statistics.mean(limit.rps for limit in self.limits[index : index + 2])


def visit(
    system: System, phases: Sequence[Phase], without_server: Callable[[], Limit] | None = None
) -> Visit:
    """Launch a system, load it, and end it. Raises Failed.

    `without_server` measures the limit while the server idles, before each load and after the last: the speed
    of a shared machine changes by tens of percent within minutes, so both rates must be close in time.
    """
    with tempfile.TemporaryDirectory(prefix="torchmar-bench-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        content = phases[0].content.read_bytes()
        begin = time.perf_counter()
        with system.launch(folder) as endpoint:
            answer = first_answer(endpoint, content, begin + LAUNCH_SECONDS)
            launched = time.perf_counter() - begin
            settle(endpoint.pid)
            loads, limits = {}, []
            for phase in phases:
                if without_server is not None:
                    limits.append(without_server())
                loads[phase.label] = load(endpoint, phase, folder)
                settle(endpoint.pid)  # what was under way when the load ended is still being answered
            if without_server is not None:
                limits.append(without_server())
            held = memory.tree_mb([endpoint.pid])
    return Visit(launched, answer.decode("utf-8", "replace"), loads, held, tuple(limits))


def load(endpoint: Endpoint, phase: Phase, folder: Path) -> Result:
    """Run the load generator in a process of its own. Raises Failed."""
    body, content_type = endpoint.body(phase.content.read_bytes())
    file = folder / "request-body"
    file.write_bytes(body)
    command = [sys.executable, "-m", "torchmar.measure.load", "--url", endpoint.url, "--body", str(file)]
    command += ["--content-type", content_type, "--clients", str(phase.clients)]
    command += ["--seconds", str(phase.seconds), "--warmup", str(phase.warmup)]
    command += ["--warmup-max", str(phase.warmup_max)]
    for name, value in endpoint.headers.items():
        command += ["--header", f"{name}: {value}"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=phase.seconds + phase.warmup_max + 60,
        check=False,
    )
    if done.returncode:
        raise Failed(f"the load generator failed: {done.stderr[-1000:]}", endpoint.log)
    return result_from(json.loads(done.stdout))


def result_from(content: dict[str, Any]) -> Result:
    """Return the result that the load generator printed."""
    answers = tuple(Answer(**answer) for answer in content["answers"])
    return Result(**{**content, "answers": answers})


def settle(pid: int, timeout: float = 20.0) -> None:
    """Wait until a tree of processes is idle: after the first answer other workers may still be loading."""
    end = time.perf_counter() + timeout
    before = _cpu_seconds(pid)
    while time.perf_counter() < end:
        time.sleep(0.3)
        now = _cpu_seconds(pid)
        if now - before < 0.03:
            return
        before = now


def _cpu_seconds(pid: int) -> float:
    total = 0.0
    for member in memory.tree(pid):
        try:
            times = psutil.Process(member).cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


# -- are they the right answers -----------------------------------------------------------------


def wrong_answers(expected: str, result: Result, *, exact: bool) -> int:
    """Count a load's answers that differ from `expected`: in a byte, or in labels and probabilities."""
    return sum(answer.count for answer in result.answers if not same(expected, answer.text, exact=exact))


def same(expected: str, found: str, *, exact: bool) -> bool:
    """Return whether two answers agree. TorchServe's handler gives {label: probability}, ours a list."""
    if exact:
        return expected == found
    try:
        wanted, had = _ranking(json.loads(expected)), _ranking(json.loads(found))
    except (ValueError, TypeError, KeyError, AttributeError):
        return False
    return [label for label, _ in wanted] == [label for label, _ in had] and all(
        abs(p - q) < _TOLERANCE for (_, p), (_, q) in zip(wanted, had, strict=True)
    )


def _ranking(content: Any) -> list[tuple[str, float]]:
    if isinstance(content, dict):
        return [(str(label), float(probability)) for label, probability in content.items()]
    return [(str(row["label"]), float(row["probability"])) for row in content]
