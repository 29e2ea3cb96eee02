"""Measures the limit: the same work in a plain loop, without a server.

    python -m benchmarks.limit --archive FOLDER --picture FILE --processes 2 --seconds 10

N processes with one thread each load the unpacked archive's handler, wait for one another, and answer the
same photograph again and again, one at a time. The result is one JSON object; `rps` is the images per second
of all processes. No server on the same cores can be faster, unless it batches.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torchmar.measure.memory import peak_rss_bytes

from .work import Work

_WARM_UP = 5  # pictures
_READY, _GO = "ready\n", "go\n"  # said by a loop, and to it


@dataclass(frozen=True)
class Limit:
    """Holds the images per second of all processes, and the median time of one image in ms.

    `peak_rss_mb` is the largest resident set of any process, in 10^6 bytes; None where no system tells.
    """

    processes: int
    seconds: float
    rps: float
    p50_ms: float
    answer: str
    peak_rss_mb: float | None = None


def measure(archive: Path, picture: Path, processes: int, seconds: float, timeout: float = 120.0) -> Limit:
    """Run the loops in processes of their own. Raises RuntimeError if one fails."""
    command = [sys.executable, "-m", "benchmarks.limit", "--archive", str(archive), "--picture", str(picture)]
    command += ["--seconds", str(seconds), "--loop"]
    root = Path(__file__).resolve().parent.parent
    loops = [
        subprocess.Popen(
            command,
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(processes)
    ]
    try:
        ready = [loop.stdout is not None and loop.stdout.readline() == _READY for loop in loops]
        for loop in loops:
            assert loop.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                loop.stdin.write(_GO if all(ready) else "\n")
                loop.stdin.flush()
        outputs = [loop.communicate(timeout=timeout) for loop in loops]
    finally:
        for loop in loops:
            if loop.poll() is None:
                loop.kill()
                loop.wait()
    for loop, is_ready, (_, errors) in zip(loops, ready, outputs, strict=True):
        if loop.returncode or not is_ready:
            raise RuntimeError(f"the loop over {archive} failed:\n{errors[-2000:]}")
    results = [json.loads(output.splitlines()[-1]) for output, _ in outputs]
    return Limit(
        processes=processes,
        seconds=seconds,
        rps=sum(result["count"] / result["seconds"] for result in results),
        p50_ms=max(result["p50_ms"] for result in results),
        answer=results[0]["answer"],
        peak_rss_mb=max((one["peak_rss_mb"] for one in results if one["peak_rss_mb"]), default=None),
    )


def _loop(archive: Path, picture: bytes, seconds: float) -> None:
    """Run the loop of one process."""
    work = Work(archive)
    for _ in range(_WARM_UP):
        answer = work.answer(picture)
    print(_READY, end="", flush=True)
    if sys.stdin.readline() != _GO:
        return
    times = []
    begin = now = time.perf_counter()
    while now - begin < seconds:
        work.answer(picture)
        times.append(-now + (now := time.perf_counter()))
    times.sort()
    peak = peak_rss_bytes()
    print(
        json.dumps(
            {
                "count": len(times),
                "seconds": now - begin,
                "p50_ms": times[len(times) // 2] * 1e3,
                "answer": answer.decode("utf-8", "replace"),
                "peak_rss_mb": None if peak is None else peak / 1e6,
            }
        )
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the limit, and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limit", description=__doc__.splitlines()[0])
    parser.add_argument("--archive", type=Path, required=True, help="an unpacked archive")
    parser.add_argument("--picture", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--loop", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.loop:
        _loop(options.archive, options.picture.read_bytes(), options.seconds)
    else:
        print(
            json.dumps(asdict(measure(options.archive, options.picture, options.processes, options.seconds)))
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
