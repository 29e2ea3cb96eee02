"""How long a worker takes from `register` to READY, and what it holds in memory: eager against ONNX.

    python benchmarks/worker_start.py [--runs 7]

Needs model_store/efficientnet_lite0-1.0.mar and -2.0.mar, as the quickstart builds them. One server, the two
versions in turn, each registered, asked once, measured and unregistered; medians with the smallest and the
largest. Memory is the resident set of the worker process after its first answer (psutil).
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import psutil

from torchmar.client import connect
from torchmar.server import free_ports, read_config, start, stop

ROOT = Path(__file__).resolve().parent.parent
NAME = "efficientnet_lite0"
PICTURE = ROOT / "models" / NAME / "golden" / "grace_hopper.jpg"
VERSIONS = {"1.0": "eager", "2.0": "onnx"}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    seconds: dict[str, list[float]] = {version: [] for version in VERSIONS}
    memory: dict[str, list[float]] = {version: [] for version in VERSIONS}
    with tempfile.TemporaryDirectory() as temporary:
        config = free_ports(read_config(ROOT / "config.properties"))
        running = start(Path(temporary), ROOT / "model_store", config, environment=os.environ)
        try:
            with connect(
                inference=config.inference, management=config.management, key_file=running.key_file
            ) as server:
                for _ in range(runs):
                    for version in VERSIONS:
                        begin = time.perf_counter()
                        server.management.register(f"{NAME}-{version}.mar")
                        model = server.management.wait_until_ready(NAME, version)
                        seconds[version].append(time.perf_counter() - begin)
                        server.inference.predict(NAME, PICTURE, version=version)
                        memory[version].append(psutil.Process(model.workers[0].pid).memory_info().rss / 1e6)
                        server.management.unregister(NAME, version)
                        server.management.wait_until_gone(NAME, version)
        finally:
            stop(running)
    print(f"{'version':<10}{'runtime':<9}{'register to READY, s':<28}{'resident memory, MB'}")
    for version, runtime in VERSIONS.items():
        print(f"{version:<10}{runtime:<9}{_spread(seconds[version], 2):<28}{_spread(memory[version], 0)}")


def _spread(values: list[float], digits: int) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


if __name__ == "__main__":
    main()
