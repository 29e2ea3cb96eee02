"""Prove that a release loses nothing: releases, rollbacks, retirements and scaling under steady load.

    python -m benchmarks.prove_release [--cycles N] [--json FILE] [--naive]

8 clients send requests to the default version without pause. Meanwhile, N times, a version is registered,
made the default, rolled back, made the default again, and the old one retired; and N times the workers go
from 1 to 3 and back. Afterwards every request is accounted for. `--naive` acts as TorchServe's documentation
suggests: it unregisters the old version at once, and scales down directly. Exit code 1 if a request failed,
was lost, executed twice, or answered by a version that was not the default.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from torchmar.client import KeyFile, Server, connect
from torchmar.errors import TorchmarError
from torchmar.server import WorkerLog, free_ports, read_config, start, stop

from . import proof_archive
from .proof_acts import DWELL, Acts, ByHand, Recording, WithTorchmar
from .proof_load import Order, ProofLoad, Record, count
from .writable import require_writable

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = ("1.0", "2.0")
MODEL = proof_archive.NAME
BAD = ("failed", "lost", "duplicated", "misversioned")


def main(arguments: Sequence[str] | None = None) -> int:
    """Act under load, count, and print the counts."""
    options = _parser().parse_args(arguments)
    require_writable("--json", options.json)
    console = Console()
    with tempfile.TemporaryDirectory(prefix="torchmar-proof-") as temporary:
        counts, records = _prove(options, Path(temporary).resolve(), console)
    for kind, number in Counter(record.error for record in records if record.error).most_common(10):
        console.print(f"[red]{number} x[/red]", kind, highlight=False)
    console.print_json(data=counts)
    bad = {key: counts[key] for key in BAD if counts[key]}
    verdict = ", ".join(f"{number} {key}" for key, number in bad.items()) or "nothing was lost"
    Console(stderr=True).print(
        f"{counts['requests']:,} requests: {verdict}", style="bold red" if bad else "bold"
    )
    if options.json is not None:
        options.json.write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")
    return int(bool(bad))


def _prove(
    options: argparse.Namespace, folder: Path, console: Console
) -> tuple[dict[str, Any], list[Record]]:
    written, store = folder / "executed", folder / "model_store"
    for path in (written, store, folder / "server"):
        path.mkdir()
    for version in VERSIONS:
        proof_archive.make(store, version, written)
    with _serving(folder / "server", store) as (server, token):
        management = Recording(server.management)
        management.register(f"{MODEL}-{VERSIONS[0]}.mar")
        management.wait_until_ready(MODEL, VERSIONS[0])
        management.set_default(MODEL, VERSIONS[0])  # it is already; now the switch is noted, too
        acts: Acts = ByHand(management)
        if not options.naive:
            acts = WithTorchmar(server, management, store, folder / "releases", options.longest)
        url = f"{server.inference.address}/predictions/{MODEL}"
        load = ProofLoad(Order(url, {"Authorization": f"Bearer {token}"}, timeout=options.timeout))
        load.start()
        try:
            _act(acts, options.cycles, console)
            time.sleep(DWELL)
            records = load.stop()
        except BaseException:
            load.kill()
            raise
    counted = count(records, proof_archive.executed(written), management.switches)
    counts = {
        **counted,
        "release_s": round(statistics.median(acts.took.release), 3),
        "rollback_s": round(statistics.median(acts.took.rollback), 4),
        "cycles": options.cycles,
        "naive": options.naive,
    }
    return counts, records


def _act(acts: Acts, cycles: int, console: Console) -> None:
    with _progress(console, 2 * cycles) as advance:
        for number in range(cycles):
            old, new = VERSIONS[number % 2], VERSIONS[(number + 1) % 2]
            acts.cycle(old, new)
            advance("release, rollback, retire")
        for _ in range(cycles):
            acts.scaling()
            advance("scale 1, 3, 1")


@contextmanager
def _serving(folder: Path, store: Path) -> Iterator[tuple[Server, str]]:
    """Start a server with the checkout's configuration; yield it with the inference token."""
    # No token may expire meanwhile: the load has one and cannot renew it.
    settings = {"token_expiration_min": str(60 * 24)}
    config = free_ports(read_config(ROOT / "config.properties").with_settings(settings))
    running = start(folder, store, config, environment=os.environ)
    try:
        assert running.key_file is not None
        keys = KeyFile(running.key_file)
        with connect(
            inference=running.config.inference,
            management=running.config.management,
            metrics=running.config.metrics,
            tokens=keys,
            reason=WorkerLog(running.logs).why_died,
        ) as server:
            yield server, keys.token("inference") or ""
    finally:
        stop(running)


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Callable[[str], None]]:
    """Show progress on a terminal, and nothing elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("starting", total=total)
        yield lambda text: progress.update(task, description=text, advance=1)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: at least 1, or nothing is proved")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./scripts/prove-release", description=__doc__.splitlines()[0])
    parser.add_argument("--cycles", type=_positive, default=50, help="releases, and scalings (default: 50)")
    parser.add_argument("--json", type=Path, help="write the counts there")
    parser.add_argument("--naive", action="store_true", help="as TorchServe's documentation suggests it")
    parser.add_argument("--longest", type=float, default=1.0, help="seconds that an answer takes at most")
    parser.add_argument(
        "--timeout", type=float, default=10.0, help="seconds that a client waits for an answer"
    )
    return parser


if __name__ == "__main__":
    # `kill` ends the run in order, with all processes that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except TorchmarError as error:
        sys.exit(f"prove-release: {error}")
