"""Measures the steps of a release: 18 MB of ONNX, from the command to the default, on a warm server.

    .venv/bin/python -m benchmarks.release_steps [--rounds N] [--samples N] [--json FILE]

The model is EfficientNet-Lite0 with its published weights. Version 1.0, eager, is the default and warm;
`torchmar release` brings 2.0, ONNX, with its gate; then 2.0 is removed for the next round. The extras serve,
export and models are needed; the archives are built first, which takes a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from torchmar.archive import build
from torchmar.errors import TorchmarError
from torchmar.server import free_ports, read_config, start, stop
from torchmar.spec import load_model

from .writable import require_writable

ROOT = Path(__file__).resolve().parent.parent
MODEL = "efficientnet_lite0"
OLD, NEW = {"version": "1.0", "runtime": "eager"}, {"version": "2.0", "runtime": "onnx"}
_WARM = 24  # samples of the first release, which warm up the old version


def main(arguments: Sequence[str] | None = None) -> int:
    """Release and roll back several times, and print the medians."""
    options = _parser().parse_args(arguments)
    require_writable("--json", options.json)
    console = Console()
    with tempfile.TemporaryDirectory(prefix="torchmar-steps-") as temporary:
        folder = Path(temporary).resolve()
        built, store = folder / "built", folder / "model_store"
        for path in (built, store):
            path.mkdir()
        for version in (OLD, NEW):
            with console.status(f"building {MODEL} {version['version']}"):
                build(load_model(ROOT / "models" / MODEL, version), built)
        config = free_ports(read_config(ROOT / "config.properties"))
        running = start(folder, store, config, environment=os.environ)
        try:
            with console.status("warming up the old version"):
                first = built / f"{MODEL}-1.0.mar"
                _torchmar(
                    folder, "release", first, "--samples", _WARM, "--watch", 0, "--promote-inconclusive"
                )
            rounds = []
            for number in range(options.rounds):
                with console.status(f"release {number + 1} of {options.rounds}"):
                    rounds.append(_round(folder, built / f"{MODEL}-2.0.mar", options.samples))
        finally:
            stop(running)
    medians = {step: round(statistics.median(one[step] for one in rounds), 3) for step in rounds[0]}
    table = Table("step", "s", box=None, title=f"medians of {options.rounds}, {options.samples} samples")
    for step, seconds in medians.items():
        table.add_row(step, f"{seconds:.3f}")
    console.print(table)
    if options.json is not None:
        options.json.write_text(json.dumps(medians, indent=2) + "\n", encoding="utf-8")
    return 0


def _round(folder: Path, archive: Path, samples: int) -> dict[str, float]:
    """Release once; return the seconds of each step, and from the command to the default; then undo it."""
    begin = time.time()
    # The gate's time is measured, not its finding.
    gate = ("--samples", samples, "--promote-inconclusive", "--max-slowdown", 10)
    events = _torchmar(folder, "release", archive, *gate, "--watch", 0, "--events")
    done = {one["step"]: one for one in events if one["event"] == "done"}
    at = datetime.fromisoformat(done["default"]["at"].replace("Z", "+00:00")).timestamp()
    _torchmar(folder, "rollback", MODEL, "--events")
    _torchmar(folder, "retire", MODEL, "2.0", "--longest", 1, "--events")
    (folder / "model_store" / archive.name).unlink()
    steps = {step: float(one["data"]["seconds"]) for step, one in done.items()}
    return {**steps, "from the command to the default": at - begin}


def _torchmar(folder: Path, *arguments: object) -> list[dict[str, Any]]:
    """Run a command in its own process, as people do; return its events. Raises TorchmarError."""
    command = [sys.executable, "-m", "torchmar", *map(str, arguments), "--dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise TorchmarError(f"{' '.join(command[2:])}: exit code {done.returncode}\n{done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.release_steps", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="releases (default: 3)")
    parser.add_argument("--samples", type=int, default=100, help="golden requests to each (default: 100)")
    parser.add_argument("--json", type=Path, help="write the seconds there")
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TorchmarError as error:
        sys.exit(f"release_steps: {error}")
