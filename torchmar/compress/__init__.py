"""Compress exported models, measure what that costs and gains, and refuse what costs too much.

Only ONNX is compressed. Functions import ONNX Runtime when they call it; importing this package does not.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import floor
from pathlib import Path
from typing import Any

from ..dataset import read_dataset
from ..errors import ExportError, ParityError
from ..export import (
    Apart,
    Artifacts,
    Example,
    Progress,
    examples,
    handler_failed,
    mixed_rows,
    open_artifact,
    opened,
    rounded,
    torch_model,
    workers_code,
)
from ..golden import answer_of, expected_of
from ..handler_code import FAILURES, ModelCode, handlers
from ..mar import Accepted
from ..measure.price import COMPRESSED, FLOAT, Mean, MetricPrice, Price, Speed, shortened, shortfalls
from ..spec import ModelSource, in_file
from ._compare import Compared, Comparison, recording
from ._data import Data, Labelled, read_data
from ._fewest import fewest
from ._metric import Judge
from ._prune import Pruned, prune
from ._quantise import Feeds, Quantiser
from ._speed import BATCHES, batch_of, latencies, speed_of

__all__ = [
    "BATCHES",
    "SECONDS",
    "Comparison",
    "Compressed",
    "Labelled",
    "Pruned",
    "Trying",
    "batch_of",
    "compress",
    "latencies",
    "read_data",
]

SECONDS = 0.5
"""The default duration of measuring one model at one batch size."""

_RANKED_BY = 8  # batches that layers are ranked by
_MOST_NAMED = 5
_BITS = {"fp16": 16}


@dataclass(frozen=True)
class Compressed:
    """Compressed artifacts with what they cost, which is packed, and what they gain, which is not.

    Times differ with each measurement and from machine to machine, and the same inputs must give the same
    archive. Whoever serves it elsewhere measures there: a release's gate compares both versions' latency on
    the server itself.
    """

    artifacts: Artifacts
    price: Price
    speed: Speed


@dataclass(frozen=True)
class Trying:
    """How a search compresses: all ways are measured on the same examples.

    Unless `until_accepted`, no layer is left in float, and `accept` is not looked at: the price says what
    that costs. `pruned` keeps the pruned modules by the share that was removed.
    """

    until_accepted: bool
    pruned: dict[float, Pruned]


def compress(
    source: ModelSource,
    artifacts: Artifacts,
    folder: Path,
    progress: Progress = lambda _: None,
    *,
    seconds: float = SECONDS,
    trying: Trying | None = None,
) -> Compressed:
    """Replace the ONNX files of `artifacts` in `folder` by compressed ones, as model.yaml's `compress` says.

    `seconds` is how long each model is timed at each batch size. Golden answers become the compressed
    model's, because that is what the archive answers; the price names those that differ from the module's.
    `trying` is given by a search, which compares many ways with the same module.
    Raises ExportError, DatasetError, or ParityError if `accept` does not hold.
    """
    return _Compressing(source, artifacts, folder, progress, trying).run(seconds)


class _Compressing:
    """Compresses the artifacts of one model."""

    def __init__(
        self,
        source: ModelSource,
        artifacts: Artifacts,
        folder: Path,
        progress: Progress,
        trying: Trying | None,
    ) -> None:
        assert source.spec.compress is not None
        self.trying = trying
        self.source, self.artifacts, self.folder, self.progress = source, artifacts, folder, progress
        self.how = source.spec.compress
        self.code = workers_code(folder) if source.has_code else ModelCode(source.directory)
        self.kind = source.handler_class(ModelCode(source.directory))
        self.params = source.params(self.kind)
        self.notes = list(artifacts.notes)
        self.judge: Judge | None = None
        self.aside = folder / "compressed"
        self.aside.mkdir()

    def run(self, seconds: float) -> Compressed:
        self.progress("reading the data")
        reference = self.reference = self._opened(self.artifacts.files)
        with self.code.running():
            data = read_data(self.source, reference, set_aside=self.trying is not None)
            golden = [one for one in examples(self.source, reference, 0) if one.name is not None]
            self.batches = self._batches(reference, data.calibration or data.price[:_RANKED_BY])
        expected = [(one, answer_of(self.artifacts.golden[str(one.name)])) for one in golden]
        comparator = self.artifacts.comparator
        self.comparison = self._comparison(data.price, expected)
        exported = self._pruned()
        self.quantisers = {}
        if self.how.quantize is not None:
            self.progress(f"quantising: {self.how.quantize}")
            self.quantisers = {
                part: Quantiser(self.how, file, self.aside, self.batches[part])
                for part, file in exported.items()
            }
        in_float = self._layers_in_float(data)
        files = self._files()
        handler = self._opened(files)
        price = self._price(data, self.found, in_float)
        self.progress("measuring its speed")
        speed = self._speed(files, data, seconds)
        self._note(price, speed, handler, golden)
        for part, file in files.items():
            file.replace(self.artifacts.files[part])
        answers = {name: expected_of(answer, comparator) for name, answer in self.found.golden.items()}
        return Compressed(replace(self.artifacts, golden=answers, notes=self.notes), price, speed)

    # -- steps ----------------------------------------------------------------------------------

    def _pruned(self) -> Mapping[str, Path]:
        """Return the files to quantise: the exported ones, or those of a module with fewer channels."""
        self.removed: Pruned | None = None
        if self.how.prune is None or self.how.train is None:
            return self.artifacts.files
        [(part, module)] = self.artifacts.modules.items()
        assert self.artifacts.export is not None
        self.progress("pruning")
        model = torch_model(self.kind, self.params, module)
        handler = opened(self.source, self.kind, self.params, self.source.directory, {part: model}, self.code)
        kept = {} if self.trying is None else self.trying.pruned
        if self.how.prune not in kept:
            examples = read_dataset(self.source.directory / self.how.train)
            kept[self.how.prune] = prune(self.source, module, handler, self.code, examples, self.progress)
        self.removed = kept[self.how.prune]
        # Where there is nothing to quantise, it is the result.
        place = self.folder / "pruned" if self.how.quantize else self.aside
        place.mkdir(exist_ok=True)
        return {part: self.artifacts.export(part, self.removed.module, place)}

    def _opened(self, files: Mapping[str, Path], threads: int | None = None) -> Any:
        """Return the handler with these files, as a worker opens them."""
        models = {
            part: {**self.artifacts.models[part], "file": str(file.resolve())} for part, file in files.items()
        }
        return open_artifact(
            self.source, self.kind, self.params, models, self.folder, self.code, threads=threads
        )

    def _files(self) -> dict[str, Path]:
        return {part: self.aside / file.name for part, file in self.artifacts.files.items()}

    def _batches(self, reference: Any, examples: Collection[Labelled]) -> dict[str, list[Feeds]]:
        """Return what each part's graph is asked for these examples."""
        import onnx

        found: dict[str, list[Feeds]] = {part: [] for part in self.artifacts.files}
        names = {}
        for part, file in self.artifacts.files.items():
            graph = onnx.load(str(file), load_external_data=False).graph
            constant = {one.name for one in graph.initializer}
            names[part] = [one.name for one in graph.input if one.name not in constant]
        for one in examples:
            for instance in one.example.decoded.instances:
                with recording(reference) as recorded:
                    reference.infer(reference.collate([instance]))
                for part, each in recorded.items():
                    found[part] += [self._feeds(part, names[part], call.inputs) for call in each.calls]
        return found

    def _feeds(self, part: str, names: list[str], inputs: Any) -> Feeds:
        if not self.artifacts.models[part].get("prepared"):
            blank = self.kind()
            blank.params = self.params
            inputs = blank.prepare(inputs)
        feeds: Feeds = handlers("runtimes").arguments(names, inputs)
        return feeds

    def _layers_in_float(self, data: Data) -> tuple[str, ...]:
        """Quantise until `accept` holds; returns the layers left in float. Raises ParityError.

        Layers are left in float in the order of what they cost.
        """
        wrong = self._wrong_with(data, ())
        if not wrong or (self.trying is not None and not self.trying.until_accepted):
            return ()
        first = self._price(data, self.found, ())
        worst = self.found.worst
        if not self.quantisers:
            raise ParityError(self._refusal(first, worst, wrong, 0))
        layers = self._costliest(data)
        count = fewest(len(layers) - 1, lambda number: not self._wrong_with(data, layers[:number]))
        # The last try may have been another one.
        if count is None or self._wrong_with(data, layers[:count]):
            raise ParityError(self._refusal(first, worst, wrong, len(layers)))
        return tuple(layers[:count])

    def _costliest(self, data: Data) -> list[str]:
        """Return all layers, first the one that costs most when it alone is quantised.

        That is the mean error of the outputs on a few examples. The error of a layer's own output would rank
        them far worse: what becomes of an error depends on all that follows.
        """
        some = (data.calibration or data.price)[:_RANKED_BY]
        comparison = self._comparison(some, [])
        cost: dict[str, float] = {}
        total = sum(len(one.layers) for one in self.quantisers.values())
        for part, quantiser in self.quantisers.items():
            alone = {**self.artifacts.files, part: self._files()[part]}
            for layer in quantiser.layers:
                self.progress(f"looking for the layers that cost most: {len(cost) + 1} of {total}")
                quantiser.write(alone[part], [other for other in quantiser.layers if other != layer])
                cost[self._named(part, layer)] = self._compared(comparison, alone).worst.mean
        return sorted(cost, key=lambda layer: -cost[layer])  # ties keep the graph's order

    def _named(self, part: str, layer: str) -> str:
        return layer if len(self.quantisers) == 1 else f"{part}/{layer}"

    def _wrong_with(self, data: Data, in_float: Collection[str]) -> dict[str, str]:
        """Quantise with these layers in float, compare, and return what `accept` does not take."""
        for part, quantiser in self.quantisers.items():
            left = [layer for layer in quantiser.layers if self._named(part, layer) in in_float]
            quantiser.write(self._files()[part], left)
        self.progress(f"comparing: {len(in_float)} layers in float" if in_float else "comparing")
        self.found = self._compared(self.comparison, self._files())
        return shortfalls(asdict(self._price(data, self.found, tuple(in_float))), self._accepts())

    def _compared(self, comparison: Comparison, files: Mapping[str, Path]) -> Compared:
        handler = self._opened(files)
        with self.code.running():
            try:
                return comparison.of(handler)
            except ExportError:
                raise
            except FAILURES as error:
                raise handler_failed(self.source, self.kind, error) from error

    def _comparison(self, asked: Sequence[Labelled], golden: Sequence[tuple[Example, Any]]) -> Comparison:
        return Comparison(self.source, self.reference, self.artifacts.comparator, asked, golden, self.folder)

    def _accepts(self) -> Accepted:
        accept = self.source.spec.accept
        return Accepted(accept.max_abs_error, accept.agreement, accept.cost, accept.metric_drop)

    def _price(self, data: Data, found: Compared, in_float: tuple[str, ...]) -> Price:
        how, worst, files = self.how, found.worst, self._files()
        by_labels = zip(*found.to_labels, strict=True) if found.to_labels else None
        return Price(
            quantize=how.quantize,
            bits=None if how.quantize is None else _BITS.get(how.quantize, how.bits or 8),
            calibration=(how.calibration or "minmax") if how.quantize == "int8" else None,
            calibrated_on=len(data.calibration) if how.quantize == "int8" else 0,
            layers=sum(len(one.layers) for one in self.quantisers.values()),
            layers_in_float=in_float,
            data_sha256=data.sha256,
            examples=found.examples,
            apart=data.apart,
            bytes={
                FLOAT: sum(file.stat().st_size for file in self.artifacts.files.values()),
                COMPRESSED: sum(file.stat().st_size for file in files.values()),
            },
            cost=Mean.of(found.distances) if found.is_measurable and found.distances else None,
            cost_by_labels=None
            if by_labels is None
            else {name: Mean.of(each) for name, each in zip((FLOAT, COMPRESSED), by_labels, strict=True)},
            metric=self._metric(found),
            agreement=round(found.same / found.examples, 4),
            golden=len(found.golden),
            golden_differing=tuple(found.differing),
            max_abs_error=shortened(worst.error),
            mean_abs_error=shortened(worst.mean),
            multiply_adds=None if self.removed is None else self.removed.multiply_adds,
            parameters=None if self.removed is None else self.removed.parameters,
        )

    def _metric(self, found: Compared) -> MetricPrice | None:
        """Return the task's metric of both models."""
        before, now = ([pair[side] for pair in found.answers] for side in (0, 1))
        if self.judge is None:  # the uncompressed model's answers are always the same
            self.judge = Judge(found.labels, before, self.artifacts.comparator)
        return self.judge.of(now)

    def _refusal(self, price: Price, worst: Apart, wrong: Mapping[str, str], layers: int) -> str:
        """Return the error for a model that `accept` takes in no way."""
        golden = 1 - len(price.golden_differing) / price.golden if price.golden else 1.0
        takes = {
            "agreement": floor(1000 * min(price.agreement, golden)) / 1000,
            "max_abs_error": rounded(price.max_abs_error),
            "cost": None if price.cost is None else rounded(price.cost.value),
            "metric_drop": None if price.metric is None else rounded(price.metric.drop.value),
        }
        lines = ", ".join(f"{key}: {takes[key]:g}" for key in wrong if takes[key] is not None)
        write = f"write `accept: {{{lines}}}`, which takes it with no layer in float, or " if lines else ""
        where = f" ({worst.where})" if "max_abs_error" in wrong else ""
        tried = f", nor with as many as {layers - 1} of its {layers} layers in float" if layers > 1 else ""
        asked = f"on {price.examples} examples and {price.golden} golden requests"
        what = (
            f"{write}leave `compress` out: {self.how.quantize or 'pruning'} does not hold it{tried}: "
            f"{'; '.join(wrong.values())}{where}, {asked}"
        )
        return in_file(self.source, "accept", what)

    def _speed(self, files: Mapping[str, Path], data: Data, seconds: float) -> Speed:
        serving = self.source.spec.serving
        workers = serving.max_workers or serving.min_workers
        threads = handlers("worker.cpus").threads_for(serving.threads, workers)
        both = {
            FLOAT: self._opened(self.artifacts.files, threads),
            COMPRESSED: self._opened(files, threads),
        }
        with self.code.running():
            return speed_of(
                both,
                {FLOAT: self.artifacts.files, COMPRESSED: files},
                {part: each[0] for part, each in self.batches.items() if each},
                [instance for one in data.price[:64] for instance in one.example.decoded.instances],
                self.aside,
                threads=threads,
                seconds=seconds,
            )

    def _note(self, price: Price, speed: Speed, handler: Any, golden: Any) -> None:
        """Note what whoever builds the archive may not expect."""
        notes = speed.slower()
        if price.bytes[COMPRESSED] >= price.bytes[FLOAT]:
            notes.append("compressed it is no smaller")
        if price.calibrated_on and not price.apart:
            what = f"the cost was measured on the {price.calibrated_on} examples that gave the ranges"
            notes.append(f"give `compress.data` more examples: {what}")
        if price.golden_differing:
            named = ", ".join(price.golden_differing[:_MOST_NAMED])
            notes.append(f"answered otherwise than by the module, as `accept` allows: golden {named}")
        if self.found.labels and self.judge is not None and self.judge.why_not:
            notes.append(f"the price has no metric of the task: {self.judge.why_not}")
        with self.code.running():
            mixed = mixed_rows(handler, golden, self.artifacts.comparator)
        if mixed and self.how.quantize == "dynamic":
            what = f"the same instance is answered {mixed}, as activations are quantised over a batch"
            notes.append(f"write `quantize: int8`, or `batchSize: 1`: {what}")
        self.notes += notes
