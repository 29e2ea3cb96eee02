"""Look at new data, decide, and train, build and judge a candidate."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from .. import __version__, pack
from ..archive import build
from ..dataset import Example, digest, sample
from ..drift import MOST_ASKED, Drift, Figures, Reference, answering, drifts, reference_of
from ..errors import DatasetError, ExportError, MaintenanceError, ParityError
from ..evaluate import Comparison, Evaluation, Score, evaluate
from ..export import Progress, Weights, prepared
from ..files import is_file
from ..finetune import TrainingConfig, finetune
from ..lineage import Lineage, Metric, Parent
from ..mar import LINEAGE, REFERENCE, Archive, file_sha256, read
from ..spec import ModelSource
from ._decide import Observed, Thresholds, decide, refusals
from ._work import WORK, begin, first_weights, held, keep_weights, read_json, version_of, write_json

Outcome = Literal["nothing", "alarm", "refused", "candidate"]


@dataclass(frozen=True)
class Data:
    """Requests: the `new` ones, with labels or without; `train` and `test`, which the model was made with.

    Nothing was trained on `test`. Both are needed where the new ones have labels. Without labels `train`
    serves as the reference of drift for an archive that carries none.
    """

    new: Sequence[Example]
    train: Sequence[Example] = ()
    test: Sequence[Example] = ()

    @property
    def labelled(self) -> list[Example]:
        """Return the new requests with a label."""
        return [one for one in self.new if one.label is not None]


@dataclass(frozen=True)
class Settings:
    """How to maintain. `held_out` is the share of new labelled requests that judges alone, by `seed`."""

    limits: Thresholds = field(default_factory=Thresholds)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    held_out: float = 0.3
    seed: int = 0


@dataclass(frozen=True)
class Maintained:
    """What a run came to.

    `outcome` is nothing, alarm, refused (a candidate that was not good enough), or candidate: then `archive`
    is in the store. `on_old` and `on_new` compare it with its parent. `folder` is the run's own.
    """

    outcome: Outcome
    reasons: tuple[str, ...]
    parent: Parent
    observed: Observed
    drifts: tuple[Drift, ...]
    data: Mapping[str, str]
    folder: Path
    version: str | None = None
    archive: Path | None = None
    trained: Mapping[str, Any] = field(default_factory=dict)
    on_old: Comparison | None = None
    on_new: Comparison | None = None


def maintain(
    source: ModelSource,
    parent: Archive,
    data: Data,
    store: Path,
    settings: Settings = Settings(),
    *,
    work: Path | None = None,
    weights: str | None = None,
    progress: Progress = lambda _: None,
) -> Maintained:
    """Decide whether new data asks for a candidate, and make it: trained, compressed as before, and judged.

    `parent` is what is served, and `source` the folder that it was built from. The candidate gets the next
    version. `weights` are those of the parent, by default those that an earlier run kept, or the source's
    own. `work` is where runs leave what they did, by default .maintain beside model.yaml. A run that was
    killed goes on where it was when it is given the same again. Raises MaintenanceError, DatasetError,
    ExportError, ArchiveError, WorkerLoadError.
    """
    if source.spec.name != parent.name:
        raise MaintenanceError(f"{source.file}: give the folder of {parent.name}: this is {source.spec.name}")
    work = work or source.directory / WORK
    with held(work):
        return _Maintaining(source, parent, data, store, settings, work, weights, progress).run()


class _Maintaining:
    """One run."""

    def __init__(
        self,
        source: ModelSource,
        parent: Archive,
        data: Data,
        store: Path,
        settings: Settings,
        work: Path,
        weights: str | None,
        progress: Progress,
    ) -> None:
        if data.labelled and not (data.train and data.test):
            what = (
                "give --train and --test: the new requests have labels, and what was learned must not be lost"
            )
            raise MaintenanceError(f"{what} by training on them alone")
        self.source, self.parent, self.data, self.store = source, parent, data, store
        self.settings, self.work, self.weights, self.progress = settings, work, weights, progress
        self.digests = {
            name: digest(found)
            for name, found in (("new", data.new), ("train", data.train), ("test", data.test))
            if found
        }
        if len(set(self.digests.values())) < len(self.digests):
            what = "give different data as --data, --train and --test"
            raise MaintenanceError(
                f"{what}: two of them hold the same requests, which would judge themselves"
            )
        self.source = source = prepared(source)
        given = {
            "torchmar": __version__,
            "model": sorted((file.name, file_sha256(file)) for file in {source.file, *source.all_files()}),
            "weights": weights,
            "parent": parent.sha256,
            "data": self.digests,
            "settings": asdict(settings),
        }
        self.run_of = begin(work, given)
        self.unanswered: set[str] = set()
        self.fewer = 0

    def run(self) -> Maintained:
        seen, moved = self._observe()
        decision, reasons = decide(seen, self.settings.limits)
        found = Maintained(
            "nothing",
            reasons,
            Parent(self.parent.name, self.parent.version, self.parent.sha256),
            seen,
            tuple(moved),
            self.digests,
            self.run_of.folder,
        )
        if decision != "retrain":
            return replace(found, outcome=decision)
        return self._candidate(found)

    # -- steps ----------------------------------------------------------------------------------

    def _observe(self) -> tuple[Observed, list[Drift]]:
        """Return what the new data shows of the served archive."""
        moved, figures = self._drifts()
        seen = Observed(
            figures.count + figures.refused,
            figures.refused,
            figures.refusal,
            tuple(one.figure for one in moved if one.verdict == "drifted"),
            len(self.data.labelled),
        )
        if not self.data.labelled or not figures.count:
            return seen, moved
        then, now = (self._evaluated(self.parent, part) for part in (self.data.test, self.data.labelled))
        self.unanswered = {name for name, _ in now.failed}  # nobody can learn from them
        self.fewer = len(then.failed)
        return replace(seen, then=then.scores[0], now=now.scores[0]), moved

    def _drifts(self) -> tuple[list[Drift], Figures]:
        """Compare with the reference in the archive, or with what it was trained on."""
        reference = reference_of(self.parent)
        if reference is None and not self.data.train:
            raise MaintenanceError(
                f"give --train, or build with `reference` in model.yaml: {self.parent.path} carries no "
                "reference that new requests could be compared with"
            )
        self.progress("comparing the new requests with the reference")
        with answering(self.parent.path, self.parent.comparator) as ask:
            if reference is None:
                reference = Reference.of(ask(self._drawn(self.data.train)))
            figures = ask(self._drawn(self.data.new))
        return drifts(reference, figures), figures

    def _drawn(self, examples: Sequence[Example]) -> list[Example]:
        return sample(list(examples), MOST_ASKED, self.settings.seed)

    def _evaluated(
        self, archive: Archive, examples: Sequence[Example], against: Archive | None = None
    ) -> Evaluation:
        return evaluate(archive, examples, against=against, seed=self.settings.seed, progress=self.progress)

    def _candidate(self, found: Maintained) -> Maintained:
        """Train, build and judge a candidate; put it into the store where it is good enough."""
        learned, judging = self._split()
        limits = self.settings.limits
        version = version_of(self.run_of, self._lineage(), self.parent, self.store)
        try:
            found = replace(found, version=version, trained=self._trained(learned))
        except (DatasetError, ExportError) as error:
            return replace(
                found, outcome="alarm", reasons=(*found.reasons, f"nothing can be trained: {error}")
            )
        if not found.trained["best"]:
            return replace(
                found,
                outcome="refused",
                reasons=(*found.reasons, "no epoch was better than the module before"),
            )
        try:
            candidate = self._built(version)
        except ParityError as error:  # what model.yaml accepts of a compressed model, or of an export
            return replace(found, outcome="refused", reasons=(*found.reasons, str(error)))
        old = self._evaluated(candidate, self.data.test, self.parent)
        new = self._evaluated(candidate, judging, self.parent)
        assert old.against is not None
        assert new.against is not None
        found = replace(found, on_old=old.against, on_new=new.against)
        against = refusals(old.against, new.against, limits.drop)
        if len(old.failed) > self.fewer or new.failed:
            name, why = (*old.failed, *new.failed)[-1]
            against = (*against, f"it does not answer what {self.parent.version} answers: {name}: {why}")
        if against:
            return replace(found, outcome="refused", reasons=(*found.reasons, *against))
        metrics = {
            **_metrics(old, "test", self.digests["test"]),
            **_metrics(new, "new", digest(judging)),
        }
        return replace(found, outcome="candidate", archive=self._published(candidate, metrics))

    def _split(self) -> tuple[list[Example], list[Example]]:
        """Return the new labelled requests to train on, and those that judge.

        The seed and the request itself decide, so that one which judges never becomes one that is learned
        from, however the data grow.
        """
        drawn = [
            (hashlib.sha256(f"{self.settings.seed} ".encode() + one.read()).digest(), one)
            for one in self.data.labelled
            if one.name not in self.unanswered
        ]
        bound = int(self.settings.held_out * 2**32).to_bytes(4, "big")
        judging = [one for key, one in drawn if key[:4] < bound]
        learned = [one for key, one in drawn if key[:4] >= bound]
        if not (judging and learned):
            raise MaintenanceError(
                "give more labelled requests, or another --held-out: none is left to judge"
            )
        return learned, judging

    def _trained(self, learned: Sequence[Example]) -> Mapping[str, Any]:
        """Train on the old and the new data together, once; return how it went."""
        run = self.run_of
        if (known := read_json(run.trained)) is not None:
            return known
        weights = first_weights(self.work, self.parent, self.weights)
        trained = finetune(
            self.source,
            [*self.data.train, *learned],
            run.weights,
            self.settings.training,
            weights=weights,
            progress=self.progress,
        )
        write_json(run.trained, {**asdict(trained), "file": trained.file.name})
        return read_json(run.trained) or {}

    def _built(self, version: str) -> Archive:
        """Build the candidate as model.yaml says: exported, and compressed as the parent was."""
        run = self.run_of
        run.store.mkdir(exist_ok=True)
        source = replace(self.source, spec=replace(self.source.spec, version=version))
        weights = Weights(str(run.weights))
        return build(
            source, run.store, weights=weights, progress=self.progress, lineage=self._lineage()
        ).archive

    def _lineage(self) -> Lineage:
        parent = Parent(self.parent.name, self.parent.version, self.parent.sha256)
        return Lineage(parent=parent, data=self.digests, seed=self.settings.seed)

    def _published(self, candidate: Archive, metrics: Mapping[str, Metric]) -> Path:
        """Put the candidate into the store with its metrics, and with the new requests as its reference.

        They are what is to be expected from now on. Its weights are kept for the next run.
        """
        keep_weights(self.work, self.run_of)
        assert candidate.lineage is not None
        lineage = replace(candidate.lineage, metrics=metrics)
        target = self.store / f"{candidate.name}-{candidate.version}.mar"
        self.store.mkdir(parents=True, exist_ok=True)
        if is_file(target) and read(target).lineage == lineage:  # of this run, which was killed then
            return target
        self.progress("answering the requests of its reference")
        with answering(candidate.path, candidate.comparator) as ask:
            reference = Reference.of(ask(self._drawn(self.data.new)), self.digests["new"])
        changes = {LINEAGE: lineage.as_bytes(), REFERENCE: reference.as_bytes()}
        return pack.variant(candidate, target, changes).path


def _metrics(found: Evaluation, role: str, data: str) -> dict[str, Metric]:
    score: Score = found.scores[0]
    return {f"{score.name} ({role})": Metric(score.value, score.low, score.high, found.count, data)}
