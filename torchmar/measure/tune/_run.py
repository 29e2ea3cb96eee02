"""Tune: search, measure the best against the default in turn, decide."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from ... import __version__
from ...errors import TuneError
from ...mar import Archive
from ..machine import processor
from . import _bench
from ._bench import Bench, Settings
from ._decide import Kind, Rounds, decide, rounds_of
from ._search import Space, challengers, search
from ._served import cpus, default_of
from ._values import NOISE, Candidate, Limits, Trial, ranked

Progress = Callable[[int, int, str], None]
"""Takes (done, most to do, what is measured now)."""

_CHALLENGERS = 2  # tried in turn against the default if the first breaks a limit there


@dataclass(frozen=True)
class Tuned:
    """The result. `trials` are in the order of measurement, the default first; `seconds` is the total."""

    name: str
    version: str
    contents_sha256: str
    limits: Limits
    settings: Settings
    kind: Kind
    default: Candidate
    trials: tuple[Trial, ...]
    default_rounds: Rounds | None
    winner_rounds: Rounds | None
    machine: Mapping[str, str]
    at: str
    seconds: float

    @property
    def winner(self) -> Candidate | None:
        """Return what should replace the default; None if nothing should."""
        if self.kind not in {"better", "rescued"} or self.winner_rounds is None:
            return None
        return self.winner_rounds.candidate

    @property
    def nearest(self) -> Trial | None:
        """Return what came nearest to the limits, if nothing keeps them; None without any response."""
        measured = [trial for trial in self.trials if trial.p99_ms is not None]
        return ranked(measured)[0] if measured else None


def tune(
    archive: Archive,
    limits: Limits,
    *,
    bodies: tuple[Path, ...] = (),
    settings: Settings = Settings(),  # noqa: B008 (frozen)
    max_workers: int | None = None,
    max_batch: int = 16,
    rounds: int = 3,
    environment: Mapping[str, str],
    progress: Progress = lambda _done, _of, _what: None,
) -> Tuned:
    """Find how to serve a verified archive on this machine. Changes and leaves nothing.

    The clients send `bodies` in turn, by default the archive's golden requests. Finally it measures the
    default and the best `rounds` times in turn. Raises TuneError, ArchiveError, ServerError.
    """
    begin = time.monotonic()
    if limits.memory is not None and not Path("/proc/self/smaps_rollup").exists():
        raise TuneError("--memory: this system does not tell what processes share; Linux does")
    available = cpus()
    default = default_of(archive, available)
    space = Space(available, max_workers, min(max_batch, settings.clients), default.threads is not None)
    most = space.bound(default) + 2 * rounds
    progress(0, most, "starting the server")
    with _bench.opened(archive, bodies, limits, settings, environment) as bench:
        trials = _search(bench, default, space, lambda n, what: progress(n, most, what))
        found = _finals(bench, trials, limits, rounds, progress)
    default_rounds, winner_rounds = found
    return Tuned(
        name=archive.name,
        version=archive.version,
        contents_sha256=archive.contents_sha256,
        limits=limits,
        settings=settings,
        kind=decide(default_rounds, winner_rounds, limits),
        default=default,
        trials=tuple(trials),
        default_rounds=default_rounds,
        winner_rounds=winner_rounds,
        machine=machine(available),
        at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        seconds=time.monotonic() - begin,
    )


def _search(
    bench: Bench, default: Candidate, space: Space, progress: Callable[[int, str], None]
) -> list[Trial]:
    trials: list[Trial] = []
    plan = search(default, space)
    candidate = next(plan, None)
    while candidate is not None:
        best = max((trial.rate for trial in trials if trial.holds), default=0.0)
        progress(len(trials), str(candidate))
        trial = bench.measure(candidate, default=not trials, best_rps=best)
        trials.append(trial)
        try:
            candidate = plan.send(trial)
        except StopIteration:
            candidate = None
    return trials


def _finals(
    bench: Bench, trials: list[Trial], limits: Limits, rounds: int, progress: Progress
) -> tuple[Rounds | None, Rounds | None]:
    """Measure the default and the winner `rounds` times each, in turn.

    A winner that breaks a limit there gives way to the next one.
    """
    default = trials[0]
    against = [] if default.verdict == "failed" else [default]
    contenders = challengers(trials, NOISE)[:_CHALLENGERS]
    if not contenders:
        return rounds_of(against), None
    done = len(trials)
    found: tuple[Rounds | None, Rounds | None] = (None, None)
    for contender in contenders:
        ours: list[Trial] = []
        theirs: list[Trial] = []
        for number in range(rounds):
            what = f"{number + 1} of {rounds}: {default.candidate} against {contender.candidate}"
            progress(done, done + 2 * (rounds - number), what)
            theirs += [bench.measure(trial.candidate, default=True) for trial in against]
            ours.append(bench.measure(contender.candidate, full=True))
            done += 2
        found = rounds_of(theirs), rounds_of(ours)
        if found[1] is not None and found[1].holds(limits):
            break
    return found


def machine(available: int) -> dict[str, str]:
    """Return the conditions of the measurement."""
    return {
        "processors": str(available),
        "processor": processor(),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.1f} GB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torchmar": __version__,
        **_versions(),
    }


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in ("torchserve", "onnxruntime", "torch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
