"""Evaluate an archive, or what a server serves of it, perhaps against another archive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ..client import Inference
from ..dataset import Example, labels_of
from ..mar import Archive
from ._ask import from_server, from_worker
from ._evaluate import Evaluation, compared, judged

Progress = Callable[[str], None]


def evaluate(
    archive: Archive,
    examples: Sequence[Example],
    *,
    against: Archive | None = None,
    inference: Inference | None = None,
    metric: str | None = None,
    seed: int = 0,
    timeout: float = 30.0,
    progress: Progress = lambda _: None,
) -> Evaluation:
    """Return how good an archive's answers to labelled examples are, and how they differ from another one's.

    The archive answers in a worker process on this machine, or, with `inference`, the server that serves this
    version of it. The other one answers in a worker process, too. `metric` is one of KINDS; None chooses it
    by the archive's comparator. `seed` makes the intervals repeatable; `timeout` is in seconds for each
    request.

    Raises DatasetError, WorkerLoadError, ArchiveError, ClientError.
    """
    labels_of(examples)

    def tell(one: Archive) -> Progress:
        return lambda text: progress(f"asking {one.name} {one.version}: {text}")

    tell(archive)(f"{len(examples)} requests")
    if inference is None:
        answers = from_worker(archive, examples, timeout=timeout, progress=tell(archive))
    else:
        answers = from_server(
            inference,
            archive.name,
            archive.version,
            examples,
            timeout=timeout,
            progress=tell(archive),
        )
    progress("computing the metrics")
    found = judged(examples, answers, archive.comparator, metric=metric, seed=seed)
    if against is None:
        return found
    named = against.name, against.version
    before = from_worker(against, examples, timeout=timeout, progress=tell(against))
    progress("comparing the two")
    comparison = compared(examples, before, answers, archive.comparator, named, metric=metric, seed=seed)
    return replace(found, against=comparison)
