"""What a task would lose by compression: accuracy, similarities of texts, boxes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torchmar.compare import box_iou
from torchmar.dataset import Example, read_dataset
from torchmar.errors import TorchmarError
from torchmar.evaluate import Answer, evaluate, judged
from torchmar.export import Example as Request
from torchmar.export import outputs_and_answer
from torchmar.files import TEXT
from torchmar.golden import passed_on
from torchmar.handler_code import handlers
from torchmar.measure.price import CONFIDENCE, shortened
from torchmar.measure.statistics import interval

from .frontier_points import Bench, Point, Tell, answers

_RESAMPLES = 500
_IOU = 0.5
_LEE = "test/test_data"


def accuracy(bench: Bench, tell: Tell) -> None:
    """Note what `torchmar evaluate` finds on all labelled requests, those that gave ranges included."""
    assert bench.source.spec.compress is not None
    examples = read_dataset(bench.folder / bench.source.spec.compress.data)
    for point in bench.points:
        tell(f"evaluating {point.name}")
        first = evaluate(point.archive, examples).scores[0]
        point.facts |= {
            "metric_name": f"{first.name} on {len(examples)}",
            "metric": round(first.value, 4),
            "ci": [round(first.low, 4), round(first.high, 4)],
        }


# -- texts --------------------------------------------------------------------------------------


def similarities(bench: Bench, tell: Tell) -> None:
    """Note how well the cosines of all pairs of sentences are kept, and how well they agree with people.

    Lee, Pincombe and Welsh (2005) asked people how similar each two of 50 news stories are; gensim carries
    the stories and the marks. The metric is Spearman's rank correlation of the cosines with these marks, over
    1,225 pairs; its interval is a bootstrap over the stories, since the pairs of one story are no independent
    ones. Raises TorchmarError where gensim is missing.
    """
    import numpy as np
    from scipy.stats import pearsonr, spearmanr

    stories, marks = _stories()
    upper = np.triu_indices(len(bench.examples), 1)
    before = None
    for point in bench.points:
        tell(f"comparing the similarities of {point.name}")
        vectors = np.array(answers(point, bench.examples))
        cosines = (vectors @ vectors.T)[upper]
        before = cosines if before is None else before
        point.facts["kept"] = {
            "Spearman of cosines": round(float(spearmanr(before, cosines).statistic), 4),
            "Pearson": round(float(pearsonr(before, cosines).statistic), 4),
            "mean abs. difference": shortened(float(np.abs(before - cosines).mean())),
            "largest": shortened(float(np.abs(before - cosines).max())),
        }
        told = np.array([_vector(point, story) for story in stories])
        value, bounds = _agreement_with_people(told @ told.T, marks)
        point.facts |= {"metric_name": "Spearman with people", "metric": value, "ci": bounds}


def _agreement_with_people(cosines: Any, marks: Any) -> tuple[float, list[float]]:
    import numpy as np
    from scipy.stats import spearmanr

    def of(chosen: Any) -> float:
        first, second = (chosen[index] for index in np.triu_indices(len(chosen), 1))
        apart = first != second  # a story that is drawn twice is no pair
        first, second = first[apart], second[apart]
        return float(spearmanr(cosines[first, second], marks[first, second]).statistic)

    count, draw = len(marks), np.random.default_rng(0)
    resampled = [of(draw.integers(0, count, count)) for _ in range(_RESAMPLES)]
    return round(of(np.arange(count)), 4), [round(bound, 4) for bound in interval(resampled, CONFIDENCE)]


def _vector(point: Point, text: str) -> Any:
    request = handlers("base").Request(passed_on(text.encode(), TEXT), {})
    return outputs_and_answer(point.handler, Request(None, point.handler.decode(request)))[1]


def _stories() -> tuple[list[str], Any]:
    """Return Lee's 50 stories, and the symmetric matrix of marks from 0 to 1."""
    import numpy as np

    spec = find_spec("gensim")
    if spec is None or spec.origin is None:
        raise TorchmarError("pip install --no-deps gensim: it carries Lee's stories")
    folder = Path(spec.origin).parent / _LEE
    stories = (folder / "lee.cor").read_text(encoding="latin-1").strip().splitlines()
    marks = np.loadtxt(folder / "similarities0-1.txt")
    upper = np.triu(marks, 1)
    return stories, upper + upper.T


# -- boxes --------------------------------------------------------------------------------------


def boxes_kept(bench: Bench, tell: Tell) -> None:
    """Note which boxes are still found, and COCO's mAP with the first point's boxes as the right ones.

    A box is kept where the other answer has one with its label and an overlap (IoU) of at least 0.5, each for
    one box only.
    """
    before = answers(bench.first, bench.examples)
    labelled = [Example(str(n), b"", label=rows) for n, rows in enumerate(before)]
    for point in bench.points:
        tell(f"comparing the boxes of {point.name}")
        now = json.loads(json.dumps(answers(point, bench.examples)))
        kept = sum(_kept(*pair) for pair in zip(before, now, strict=True))
        total, found = (sum(map(len, side)) for side in (before, now))
        first = judged(labelled, [Answer(rows) for rows in now], point.archive.comparator).scores[0]
        point.facts["kept"] = {"boxes kept": f"{kept} of {total}", "new boxes": found - kept}
        point.facts |= {
            "metric_name": f"{first.name} by {bench.first.name}'s boxes",
            "metric": round(first.value, 4),
            "ci": [round(first.low, 4), round(first.high, 4)],
        }


def _kept(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> int:
    """Return how many boxes of `before` have a partner of their own, the surest first."""
    free, kept = list(now), 0
    for row in sorted(before, key=lambda one: -float(one["score"])):
        overlaps = [
            (box_iou(row["box"], other["box"]), place)
            for place, other in enumerate(free)
            if other["label"] == row["label"]
        ]
        most, place = max(overlaps, default=(0.0, -1))
        if most >= _IOU:
            kept += 1
            free.pop(place)
    return kept
