"""Measure one way of compressing after the other, within a budget of time."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import DatasetError, ExportError, ParityError
from ...export import Artifacts, Progress, Weights, build_artifacts, prepared
from ...failures import first_line
from ...mar import Accepted
from ...measure.machine import processor
from ...spec import ModelSource
from .. import SECONDS, Pruned, Trying, compress
from ._choose import Figures, best
from ._points import Point, mixed, points_of
from ._results import Keys, Results
from ._trial import Trial, uncompressed

Clock = Callable[[], float]


@dataclass(frozen=True)
class Searched:
    """What a search has found.

    `batch` is the size of a batch whose p50 counts. `trials` are in the order of measurement; `left` names
    the points for which the budget did not suffice, and `reused` how many are from an earlier search.
    """

    name: str
    version: str
    processor: str
    batch: str
    accepts: Accepted
    trials: tuple[Trial, ...]
    left: tuple[str, ...]
    reused: int
    seconds: float
    results: Path

    @property
    def figures(self) -> list[Figures]:
        """Return those of the model as it is, and of all that was measured."""
        found = [one.figures(self.batch, self.accepts) for one in self.trials if one.price is not None]
        whole = uncompressed(self.trials)
        return found if whole is None else [whole, *found]

    @property
    def best(self) -> Figures | None:
        """Return the best point by `accept`; None if nothing was measured."""
        return best(self.figures)

    def named(self, name: str) -> Trial:
        """Return a trial that was measured. Raises DatasetError."""
        measured = {one.name: one for one in self.trials if one.price is not None}
        if name not in measured:
            raise DatasetError(f"--choose {name}: expected one of {', '.join(measured) or 'none'}")
        return measured[name]


def search(
    source: ModelSource,
    budget: float,
    results: Path,
    *,
    weights: Weights = Weights(),  # noqa: B008 (frozen)
    seconds: float = SECONDS,
    only: tuple[str, ...] = (),
    progress: Progress = lambda _: None,
    clock: Clock = time.monotonic,
) -> Searched:
    """Measure the ways to compress a model that has `compress` in its model.yaml.

    It takes about `budget` seconds; a point that is not done by then is left out. Each model is timed for
    `seconds` at each batch size, in turn with the uncompressed one. What `results` knows is not measured
    again. `only` names the points to try; the default is all. Raises what exporting raises, and DatasetError.
    """
    began = clock()
    source = prepared(source)
    with tempfile.TemporaryDirectory(prefix="torchmar-compress-") as folder:
        running = _Running(source, weights, seconds, Path(folder), Results(results), progress)
        running.until, running.clock = began + budget, clock
        points = [one for one in points_of(source.spec) if not only or one.name in only]
        trials = list(running.measured(points))
        serving = source.spec.serving
        known = [one for one in trials if one.latency is not None]
        has_8 = bool(known and known[0].latency and "8" in known[0].latency["float"])
        batch = "8" if serving.batch_size > 1 and has_8 else "1"
        accept = source.spec.accept
        accepts = Accepted(accept.max_abs_error, accept.agreement, accept.cost, accept.metric_drop)
        trials += running.measured(_to_mix(trials, batch, accepts))
    return Searched(
        source.spec.name,
        source.spec.version,
        processor(),
        batch,
        accepts,
        tuple(trials),
        tuple(running.left),
        running.reused,
        clock() - began,
        results,
    )


def _to_mix(trials: list[Trial], batch: str, accepts: Accepted) -> list[Point]:
    """Return what is fast and not accepted, with layers in float: the fastest first."""
    found = [
        (one.time(batch), one.point)
        for one in trials
        if one.price is not None and one.point.quantize is not None and one.wrong(accepts)
    ]
    return [mixed(point) for time, point in sorted(found, key=lambda pair: pair[0]) if time <= 1.0]


class _OutOfTime(BaseException):
    """The budget is used up. No Exception, so that nothing takes it for a failure of the model's code."""


class _Running:
    """Measures points; the model is exported once, when it is first needed."""

    def __init__(
        self,
        source: ModelSource,
        weights: Weights,
        seconds: float,
        folder: Path,
        results: Results,
        progress: Progress,
    ) -> None:
        self.source, self.weights, self.seconds = source, weights, seconds
        self.folder, self.results, self.progress = folder, results, progress
        self.keys = Keys(source, weights, seconds)
        self.until, self.clock = float("inf"), time.monotonic
        self.left: list[str] = []
        self.reused = 0
        self._exported: Artifacts | None = None
        self._pruned: dict[float, Pruned] = {}

    def measured(self, points: list[Point]) -> Iterator[Trial]:
        """Yield a trial for each point that is known, or for which there is time."""
        for number, point in enumerate(points, 1):
            key = self.keys.of(point)
            known = self.results.get(key)
            if known is not None:
                self.reused += 1
                yield known
                continue
            try:
                trial = self._tried(point, f"{point.name} ({number} of {len(points)})")
            except _OutOfTime:
                self.left.append(point.name)
                continue
            # Another failure may be of this machine: a package is missing, or memory.
            if trial.price is not None or trial.refused:
                self.results.keep(key, trial)
            yield trial

    def _tried(self, point: Point, what: str) -> Trial:
        def tell(text: str) -> None:
            if self.clock() >= self.until:
                raise _OutOfTime
            self.progress(f"{what}: {text}")

        tell("beginning")
        given = self.source.spec.compress
        assert given is not None
        source = replace(self.source, spec=replace(self.source.spec, compress=point.compress(given)))
        artifacts = self._artifacts()
        folder = self.folder / point.name
        try:
            copy = _copied(artifacts, self.folder / "exported", folder)
            found = compress(
                source,
                copy,
                folder,
                tell,
                seconds=self.seconds,
                trying=Trying(point.mixed, self._pruned),
            )
            return Trial.of(point, found)
        except (ExportError, DatasetError) as error:
            return Trial(point, problem=first_line(error), refused=isinstance(error, ParityError))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _artifacts(self) -> Artifacts:
        if self._exported is None:
            folder = self.folder / "exported"
            folder.mkdir()
            self._exported = build_artifacts(
                self.source, self.weights, folder, lambda text: self.progress(f"exporting: {text}")
            )
        return self._exported


def _copied(artifacts: Artifacts, exported: Path, folder: Path) -> Artifacts:
    """Return the artifacts in a folder of their own, with links: compressing replaces files by renaming."""
    shutil.copytree(exported, folder, copy_function=_linked)
    files = {
        part: folder / file.relative_to(exported) if file.is_relative_to(exported) else file
        for part, file in artifacts.files.items()
    }
    return replace(artifacts, files=files, notes=list(artifacts.notes))


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)
