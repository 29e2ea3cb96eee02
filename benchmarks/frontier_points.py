"""Builds one model in several ways, and measures all of them against the first, in one run.

Every way is a point of the model's frontier: an archive that torchmar built, or the first one with a graph
that another tool has quantised.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torchmar.archive import build
from torchmar.compress import BATCHES, Comparison, Labelled, batch_of, latencies, read_data
from torchmar.errors import TorchmarError
from torchmar.export import Weights, open_artifact, outputs_and_answer
from torchmar.handler_code import ModelCode, handlers
from torchmar.mar import Archive
from torchmar.measure.price import CONFIDENCE, Mean, shortened
from torchmar.spec import ModelSource, load_model

from . import archives, limit
from .work import CONFIG

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Variant:
    """A way to build a model: a file of its folder, and the keys in which it is built otherwise."""

    name: str
    file: str = "model.yaml"
    changes: Mapping[str, Any] = field(default_factory=dict)


Recipe = Callable[[Path, Path, Sequence[Mapping[str, Any]]], None]
"""Quantises the first file into the second, with batches to take ranges from. Raises TorchmarError."""


@dataclass
class Point:
    """An archive, opened: `handler` is ready to answer.

    `layers_in_float` and `build_seconds` are None for what torchmar has not built.
    """

    name: str
    archive: Archive
    packed: archives.Packed
    handler: Any
    layers_in_float: int | None = None
    build_seconds: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def artifacts(self) -> list[Path]:
        """Return its graphs."""
        models = _settings(self.packed)["models"]
        return [self.packed.folder / part["file"] for part in models.values()]

    @property
    def bytes(self) -> int:
        """Return the size of its graphs."""
        return sum(file.stat().st_size for file in self.artifacts)


@dataclass
class Bench:
    """One model's points, the first of which is not compressed, and the data that they are compared on.

    `apart` says that none of the examples is among those for `calibration`. `notes` say which points are
    missing, and why.
    """

    source: ModelSource
    folder: Path
    points: list[Point] = field(default_factory=list)
    calibration: Sequence[Labelled] = ()
    examples: Sequence[Labelled] = ()
    apart: bool = True
    threads: int = 1
    notes: list[str] = field(default_factory=list)

    @property
    def first(self) -> Point:
        """Return the point that is not compressed."""
        return self.points[0]


def bench_of(
    model: Path, variants: Sequence[Variant], store: Path, weights: Weights, seconds: float, tell: Tell
) -> Bench:
    """Build the variants of a model's folder, and read the data of the second one.

    Raises TorchmarError if the first one cannot be built.
    """
    bench = Bench(load_model(model / variants[1].file, dict(variants[1].changes)), model)
    serving = bench.source.spec.serving
    workers = serving.max_workers or serving.min_workers
    bench.threads = handlers("worker.cpus").threads_for(serving.threads, workers)
    for variant in variants:
        tell(f"building {variant.name}")
        source = load_model(model / variant.file, dict(variant.changes))
        begun = time.monotonic()
        try:
            built = build(source, store, weights=weights, seconds=seconds, progress=_longer(variant, tell))
        except TorchmarError as error:
            if not bench.points:
                raise
            bench.notes.append(f"{variant.name}: {first_line(error)}")
            continue
        point = _opened(bench, variant.name, built.archive)
        point.build_seconds = time.monotonic() - begun
        price = built.archive.price
        point.layers_in_float = None if price is None else len(price["layers_in_float"])
        bench.points.append(point)
    data = read_data(bench.source, bench.first.handler)
    bench.calibration, bench.examples, bench.apart = data.calibration, data.price, data.apart
    return bench


def add_recipes(bench: Bench, recipes: Mapping[str, Recipe], tell: Tell) -> None:
    """Add the uncompressed archive with its graph quantised by each recipe; one that fails is a note."""
    first = bench.first
    [artifact] = first.artifacts
    batches = [
        first.handler.collate([instance])
        for one in bench.calibration
        for instance in one.example.decoded.instances
    ]
    for number, (name, recipe) in enumerate(recipes.items()):
        tell(f"quantising by {name}")
        graph = bench.folder / f"recipe{number}.onnx"
        try:
            recipe(artifact, graph, batches)
        except TorchmarError as error:
            bench.notes.append(f"{name}: {first_line(error)}")
            continue
        target = first.packed.mar.with_name(f"{first.archive.name}_recipe{number}-{first.packed.version}.mar")
        archives.repacked(first.packed, target, first.archive.name, files={artifact.name: graph})
        graph.unlink()
        bench.points.append(_opened(bench, name, replace(first.archive, path=target)))


def _opened(bench: Bench, name: str, archive: Archive) -> Point:
    packed = archives.unpacked(archive.path, archive.name, archive.version)
    code = ModelCode(bench.source.directory)
    kind = bench.source.handler_class(code)
    params, models = bench.source.params(kind), _settings(packed)["models"]
    handler = open_artifact(bench.source, kind, params, models, packed.folder, code, threads=bench.threads)
    return Point(name, archive, packed, handler)


def _settings(packed: archives.Packed) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads((packed.folder / CONFIG).read_text(encoding="utf-8"))["handler"]
    return found


def _longer(variant: Variant, tell: Tell) -> Tell:
    return lambda text: tell(f"building {variant.name}: {text}")


# -- measuring ----------------------------------------------------------------------------------


def compare(bench: Bench, tell: Tell) -> None:
    """Note each point's cost against the first one's outputs and the labels, and its agreement."""
    first = bench.first
    comparison = Comparison(
        bench.source, first.handler, first.archive.comparator, bench.examples, (), bench.folder
    )
    for point in bench.points:
        tell(f"comparing {point.name}")
        found = comparison.of(point.handler)
        cost = Mean.of(found.distances) if found.is_measurable and found.distances else None
        labelled = Mean.of([mine for _, mine in found.to_labels]) if found.to_labels else None
        share = found.same / found.examples
        point.facts |= {
            "c_x": None if cost is None else cost.value,
            "c_x_ci": None if cost is None else [cost.low, cost.high],
            "c_x_by_labels": None if labelled is None else labelled.value,
            "agreement": round(share, 4),
            "max_abs_error": shortened(found.worst.error),
            "metric": round(share, 4),
            "metric_name": f"agreement with {first.name}",
            "ci": wilson(found.same, found.examples),
        }


def time_batches(bench: Bench, seconds: float, tell: Tell) -> None:
    """Note the p50 and p99 of a forward pass with 1 and 8 instances, by points that take turns."""
    instances = [one for each in bench.examples[:64] for one in each.example.decoded.instances]
    for size in BATCHES:
        tell(f"timing batches of {size}")
        batch = batch_of(bench.first.handler, instances, size)
        found = latencies([point.handler for point in bench.points], batch, seconds)
        for point, latency in zip(bench.points, found, strict=True):
            suffix = "" if size == 1 else f"_batch_{size}"
            point.facts |= {f"{key}{suffix}": ms for key, ms in asdict(latency).items()}


def answer_alone(bench: Bench, request: Path, rounds: int, seconds: float, tell: Tell) -> None:
    """Note requests per second and peak memory of a process that decodes, infers and encodes one at a time.

    The points take turns. The rate is by the median time of a request, of which other work on this machine
    takes less than of a mean. The memory is the largest of all rounds.
    """
    found: list[list[limit.Limit]] = [[] for _ in bench.points]
    for number in range(rounds):
        tell(f"answering {request.name}, round {number + 1} of {rounds}")
        for point, results in zip(bench.points, found, strict=True):
            results.append(limit.measure(point.packed.folder, request, 1, seconds))
    for point, results in zip(bench.points, found, strict=True):
        peaks = [one.peak_rss_mb for one in results if one.peak_rss_mb is not None]
        point.facts |= {
            "requests_per_second": shortened(1000 / statistics.median(one.p50_ms for one in results)),
            "peak_rss_mb": shortened(max(peaks)) if peaks else None,
        }


def wilson(marked: int, total: int) -> list[float]:
    """Return the bounds of Wilson's 95 % interval of a share."""
    from scipy.stats import binomtest

    found = binomtest(marked, total).proportion_ci(CONFIDENCE, method="wilson")
    return [round(float(bound), 4) for bound in (found.low, found.high)]


def answers(point: Point, examples: Sequence[Labelled]) -> list[Any]:
    """Return a point's answer to each example."""
    return [outputs_and_answer(point.handler, one.example)[1] for one in examples]


def first_line(error: Exception) -> str:
    """Return the beginning of an error for a note."""
    return str(error).strip().splitlines()[0][:300]


def as_json(point: Point) -> dict[str, Any]:
    """Return what was found of a point."""
    return {
        "name": point.name,
        "bytes": point.bytes,
        "archive_bytes": point.packed.mar.stat().st_size,
        "layers_in_float": point.layers_in_float,
        "build_seconds": None if point.build_seconds is None else round(point.build_seconds, 1),
        "price": point.archive.price,
        **point.facts,
    }
