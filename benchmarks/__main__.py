"""Compare the serving of ResNet-18 on one photograph; `./scripts/bench` calls this.

    python -m benchmarks [--quick] [--json FILE] [--markdown FILE] [--only NAME[,NAME]]

It needs Linux and a package registry. The other servers' environments and all archives are made once, in
`.bench/`. Exit code 1 if a system failed or gave a wrong answer; the other figures are still reported.
"""

from __future__ import annotations

import argparse
import datetime
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable

from torchmar.errors import TorchmarError
from torchmar.export import Weights

from . import archives, environments, limit, machine, packing, report, settings, starting, tables, vgg16
from .measure import Phase
from .photographs import photograph
from .rounds import Expected, compare
from .systems import Failed, System, peers, torchserve
from .writable import require_writable

ROOT = Path(__file__).resolve().parent.parent

SYSTEMS = ("stock", "stock-1-thread", *report.OURS, *report.PEERS)
PARTS = ("limits", "noop", "settings", "starting", "packing", "vgg16")
NOOP = ("stock", "torchmar", "litserve", "mosec", "fastapi")
CLIENTS = (8, 32)
SMALL_BODY = b'{"number": 123456789}'


@dataclass(frozen=True)
class Plan:
    """Holds the length of each part, in seconds, and counts."""

    rounds: int
    seconds: float
    compiling: float  # the warm-up of a system's first load
    warmup_max: float  # of the others
    noop_rounds: int
    noop_seconds: float
    starting_runs: int
    packing_runs: int
    names: frozenset[str]


QUICK = Plan(
    2,
    4.0,
    5.0,
    3.0,
    1,
    3.0,
    2,
    3,
    frozenset({*SYSTEMS, *PARTS} - {"stock-1-thread", "settings", "packing", "vgg16"}),
)
FULL = Plan(3, 10.0, 30.0, 6.0, 2, 5.0, 5, 5, frozenset({*SYSTEMS, *PARTS}))


@dataclass(frozen=True)
class Built:
    """Holds the archives and environments in the cache."""

    store: Path
    pythons: Mapping[str, Path]
    packed: Mapping[str, archives.Packed]
    stock: Path | None
    noop_stock: Path
    noop_torchmar: Path
    workers: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare, measure, and report."""
    options = _parser().parse_args(arguments)
    plan = _plan(options)
    # A file or a pipe has no width that a table must fit into.
    console = Console(width=None if sys.stdout.isatty() else 160)
    failed: list[str] = []
    with (
        _progress(console) as step,
        tempfile.TemporaryDirectory(prefix="torchmar-bench-") as temporary,
    ):
        built = _prepare(options, plan, step.note, failed)
        found = _measure(built, plan, step, Path(temporary), failed)
    result: report.Report = {
        "command": f"./scripts/bench {' '.join(arguments or sys.argv[1:])}".strip(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": _commit(),
        "quick": options.quick,
        "rounds": plan.rounds,
        "workers": built.workers,
        "weights": f"{options.weights}, seed {archives.SEED}"
        if options.weights == "random"
        else options.weights,
        "machine": machine.describe(),
        "versions": _versions(built.pythons),
        **found,
        "failed": failed,
    }
    _show(result, options, console)
    return int(bool(report.failures(result)))


# -- options ------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./scripts/bench", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a quarter of an hour instead of a whole one")
    parser.add_argument("--json", type=Path, help="write the whole report there")
    parser.add_argument("--markdown", type=Path, help="page to write the results into")
    parser.add_argument("--only", default="", help=f"some of: {', '.join((*SYSTEMS, *PARTS))}")
    parser.add_argument("--rounds", type=int, help="instead of 2 (quick) or 3")
    parser.add_argument("--seconds", type=float, help="measured at each number of clients")
    parser.add_argument("--weights", default="random", help="`random`, `pretrained`, or a state dict's file")
    parser.add_argument("--cache", type=Path, default=ROOT / ".bench", help="environments and archives")
    return parser


def _plan(options: argparse.Namespace) -> Plan:
    plan = QUICK if options.quick else FULL
    names = frozenset(options.only.split(",")) if options.only else plan.names
    unknown = names - {*SYSTEMS, *PARTS}
    if unknown:
        raise SystemExit(
            f"bench: --only {', '.join(sorted(unknown))}: expected {', '.join((*SYSTEMS, *PARTS))}"
        )
    require_writable("--json", options.json)
    require_writable("--markdown", options.markdown)
    whole = not options.only and not options.quick
    if whole and options.markdown is None:
        options.markdown = ROOT / "docs" / "performance.md"
    return Plan(
        rounds=options.rounds or plan.rounds,
        seconds=options.seconds or plan.seconds,
        compiling=plan.compiling,
        warmup_max=plan.warmup_max,
        noop_rounds=plan.noop_rounds,
        noop_seconds=plan.noop_seconds,
        starting_runs=plan.starting_runs,
        packing_runs=plan.packing_runs,
        names=names,
    )


# -- prepare ------------------------------------------------------------------------------------


def _prepare(
    options: argparse.Namespace, plan: Plan, note: Callable[[str], None], failed: list[str]
) -> Built:
    """Make the environments and archives that the plan needs."""
    workers = machine.cores()
    weights = Weights(options.weights, archives.SEED)
    store = (options.cache / "archives").resolve()
    store.mkdir(parents=True, exist_ok=True)
    pythons = {}
    for name in environments.ENVIRONMENTS:
        if _needs(plan, name):
            note(f"environment: {name}")
            try:
                pythons[name] = environments.python_of(name, (options.cache / "environments").resolve())
            except (environments.NotInstalled, OSError) as error:
                failed.append(f"{name}: its environment could not be made: {error}")

    def build(runtime: str) -> archives.Packed:
        def progress(step: str) -> None:
            note(f"resnet18 {runtime}: {step}")

        return archives.build_model("resnet18", runtime, store, workers, weights, progress)

    packed = {"eager": build("eager"), "onnx": build("onnx")}
    note("resnet18 int8: quantising")
    packed["int8"] = archives.int8(packed["onnx"], store)
    stock = archives.stock_resnet18(store, pythons["stock"], packed["eager"]) if "stock" in pythons else None
    return Built(
        store=store,
        pythons=pythons,
        packed=packed,
        stock=stock,
        noop_stock=archives.noop(store),
        noop_torchmar=archives.noop(store, archives.torchmar_noop_config(workers)),
        workers=workers,
    )


def _needs(plan: Plan, environment: str) -> bool:
    if environment == "stock":
        return bool(plan.names & {"stock", "stock-1-thread", "noop", "starting", "vgg16"})
    return environment in plan.names or ("noop" in plan.names and environment in NOOP)


# -- measure ------------------------------------------------------------------------------------


def _measure(built: Built, plan: Plan, step: _Step, temporary: Path, failed: list[str]) -> report.Report:
    picture = photograph()
    systems = [system for system in _systems(built) if system.name in plan.names]
    noops = _noops(built) if "noop" in plan.names else []
    variants = settings.systems(built.noop_torchmar) if "settings" in plan.names else []
    limits = _limits(built, plan, picture) if "limits" in plan.names else {}
    step.expect(
        plan.rounds * len(systems)
        + plan.noop_rounds * (len(noops) + len(variants))
        + 2 * ("starting" in plan.names)
        + 2 * ("packing" in plan.names)
        + 2 * ("vgg16" in plan.names)
    )
    # The first is long to warm up: Java compiles what runs often, and needs some thousand requests to know.
    warmups = [(plan.compiling, plan.compiling)] + [(1.0, plan.warmup_max)] * (len(CLIENTS) - 1)
    phases = [
        Phase(f"{clients} clients", clients, picture, plan.seconds, *warmup)
        for clients, warmup in zip(CLIENTS, warmups, strict=True)
    ]
    expected = _expected(built, systems, picture)
    found = report.comparison(compare(systems, phases, plan.rounds, expected, limits, step.next))
    nothing = _noop_phases(plan, picture, temporary)
    if noops:
        with _kept(failed, "noop"):
            entries = compare(noops, nothing, plan.noop_rounds, {}, {}, step.next)
            found["noop"] = [report.system_entry(entry) for entry in entries]
    if variants:
        with _kept(failed, "settings"):
            entries = compare(variants, nothing[:2], plan.noop_rounds, {}, {}, step.next)
            found["settings"] = settings.entries(entries)
    if "starting" in plan.names:
        with _kept(failed, "starting"):
            found["starting"] = _starting(built, plan, picture, step)
    if "packing" in plan.names:
        weights = packing.state_dict(built.store)
        step.next("VGG-16: packing")
        with _kept(failed, "packing"):
            found["packaging"] = packing.pack_times(weights, plan.packing_runs)
        step.next("VGG-16: registering")
        with _kept(failed, "registering"):
            found["registering"] = packing.register_times(weights, plan.packing_runs)
    if "vgg16" in plan.names and "stock" in built.pythons:
        with _kept(failed, "vgg16"):
            step.next("VGG-16: archives")
            large = vgg16.pack(built.store, built.pythons["stock"])
            step.next("VGG-16: memory")
            found["vgg16"] = vgg16.held(large, torchserve.Installation(built.pythons["stock"]), picture)
    return found


@contextmanager
def _kept(failed: list[str], part: str) -> Iterator[None]:
    """Keep the failure of one part for the report: the others' figures took an hour."""
    try:
        yield
    except (
        TorchmarError,
        Failed,
        psutil.Error,
        subprocess.SubprocessError,
        OSError,
        RuntimeError,
        ValueError,
    ) as error:
        failed.append(f"{part}: {type(error).__name__}: {error}")


def _systems(built: Built) -> list[System]:
    """Return the systems to compare, in the order of the table."""
    found = []
    if built.stock is not None:
        for name, environment in (("stock", {}), ("stock-1-thread", {"OMP_NUM_THREADS": "1"})):
            installation = torchserve.Installation(built.pythons["stock"], environment)
            found.append(torchserve.stock(name, "PyTorch", installation, built.stock, "resnet-18"))
    runtimes = {"eager": "PyTorch", "onnx": "ONNX", "int8": "ONNX int8"}
    for name, runtime in report.OURS.items():
        packed = built.packed[runtime]
        found.append(torchserve.ours(name, runtimes[runtime], packed.mar, packed.name, packed.version))
    for name in report.PEERS:
        if name in built.pythons:
            make = getattr(peers, name)
            found.append(make(built.pythons[name], built.packed["onnx"].folder, built.workers))
    return found


def _noops(built: Built) -> list[System]:
    found = []
    if "stock" in built.pythons:
        installation = torchserve.Installation(built.pythons["stock"])
        found.append(torchserve.stock("stock", "none", installation, built.noop_stock, "noop"))
    found.append(torchserve.ours("torchmar", "none", built.noop_torchmar, "noop", "1.0"))
    for name in NOOP[2:]:
        if name in built.pythons:
            found.append(getattr(peers, name)(built.pythons[name], None, built.workers))
    return found


def _noop_phases(plan: Plan, picture: Path, temporary: Path) -> list[Phase]:
    small = temporary / "small-body"
    small.write_bytes(SMALL_BODY)
    return [
        Phase("32 clients, 20 B", 32, small, plan.noop_seconds, 3.0, 10.0),
        Phase("32 clients, photograph", 32, picture, plan.noop_seconds, 1.0, 4.0),
        Phase("256 clients, 20 B", 256, small, plan.noop_seconds, 1.0, 3.0),
    ]


def _limits(built: Built, plan: Plan, picture: Path) -> dict[str, Callable[[], limit.Limit]]:
    def of(runtime: str) -> Callable[[], limit.Limit]:
        return lambda: limit.measure(built.packed[runtime].folder, picture, built.workers, plan.seconds)

    return {name: of(runtime) for name, runtime in report.OURS.items()}


def _expected(built: Built, systems: Sequence[System], picture: Path) -> dict[str, Expected]:
    """Return the expected answers, which the handler gives without a server; int8 matches to the byte."""
    answers: dict[str, str] = {}
    found = {}
    for system in systems:
        runtime = report.OURS.get(system.name, "eager" if system.name.startswith("stock") else "onnx")
        if runtime not in answers:
            answers[runtime] = limit.measure(built.packed[runtime].folder, picture, 1, 0.1).answer
        found[system.name] = Expected(answers[runtime], exact=runtime == "int8")
    return found


def _starting(built: Built, plan: Plan, picture: Path, step: _Step) -> list[dict[str, Any]]:
    found = []
    single = {"minWorkers": 1, "maxWorkers": 1}
    candidates = []
    for name, runtime in report.OURS.items():
        packed = built.packed[runtime]
        model = f"single_{runtime}"
        target = built.store / f"{model}-{packed.version}.mar"
        archives.repacked(packed, target, model, config=single)
        candidates.append(starting.Candidate(name, target, model, packed.version))
    step.next("starting workers: torchmar")
    found += starting.measure(torchserve.OURS, candidates, picture, plan.starting_runs)
    step.next("starting workers: stock")
    if built.stock is not None:
        candidate = starting.Candidate("stock", built.stock, "resnet-18", "1.0")
        installation = torchserve.Installation(built.pythons["stock"])
        found += starting.measure(installation, [candidate], picture, plan.starting_runs)
    return found


# -- show ---------------------------------------------------------------------------------------


class _Step:
    """Shows the current step on a terminal, and nothing elsewhere."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None)
        self._begun = False

    def note(self, text: str) -> None:
        """Show a step of the preparation."""
        self._progress.update(self._task, description=text)

    def expect(self, total: int) -> None:
        """Set the number of steps."""
        self._progress.update(self._task, total=total, completed=0)

    def next(self, text: str) -> None:
        """Show the next step, and count the previous one as done."""
        self._progress.update(self._task, description=text, advance=int(self._begun))
        self._begun = True


@contextmanager
def _progress(console: Console) -> Iterator[_Step]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield _Step(progress)


def _show(result: report.Report, options: argparse.Namespace, console: Console) -> None:
    for table in tables.tables(result, brief=True):
        shown = RichTable(
            title=table.title, title_justify="left", title_style="bold", box=None, pad_edge=False
        )
        for number, head in enumerate(table.heads):
            shown.add_column(head, justify="left" if number == 0 else "right")
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown, "")
    console.print(machine.one_line(result["machine"]), style="dim")
    for failure in report.failures(result):
        console.print(f"[bold red]failed:[/bold red] {escape(failure)}", highlight=False)
    if options.json is not None:
        text = json.dumps(result, indent=2, default=report.as_json)
        options.json.write_text(text + "\n", encoding="utf-8")
    if options.markdown is not None:
        page = (
            options.markdown.read_text(encoding="utf-8") if options.markdown.exists() else "# Performance\n"
        )
        options.markdown.write_text(tables.into_page(page, tables.markdown(result)), encoding="utf-8")


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _versions(pythons: Mapping[str, Path]) -> dict[str, str]:
    found = machine.versions()
    for name, python in pythons.items():
        if name != "stock":
            found |= environments.versions_of(python, [name])
    return found


if __name__ == "__main__":
    # `kill` ends the run in order, with all processes that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except (TorchmarError, FileNotFoundError) as error:
        sys.exit(f"bench: {error}")
