"""Judge rankings: NDCG, hit rate and recall of what was recommended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import DatasetError
from ._evidence import Evidence, mean_of


def ranking(answers: Sequence[Any], labels: Sequence[Any]) -> Evidence:
    """Return what rankings show."""
    rows = [_ranked(*pair) for pair in zip(answers, labels, strict=True)]
    ndcg, hit, recall = zip(*rows, strict=True)
    metrics = mean_of("NDCG", ndcg), mean_of("hit rate", hit, is_share=True), mean_of("recall", recall)
    return Evidence(metrics, ndcg)


def _ranked(answer: Any, label: Any) -> tuple[float, float, float]:
    """Return NDCG, whether anything suits, and the share of what suits that was found."""
    from sklearn.metrics import ndcg_score

    if not isinstance(answer, list) or not all(isinstance(row, Mapping) and "id" in row for row in answer):
        raise DatasetError(f'expected rows with "id" as answer, found {answer!r:.80}')
    gains = dict(label) if isinstance(label, Mapping) else dict.fromkeys(_listed(label), 1.0)
    if not all(isinstance(gain, int | float) and gain >= 0 for gain in gains.values()):
        raise DatasetError(f"expected gains from 0 on in a label, found {label!r:.80}")
    gains = {str(key): float(gain) for key, gain in gains.items() if gain}
    found = [str(row["id"]) for row in answer]
    everything = list(dict.fromkeys([*found, *gains]))
    if not gains or len(everything) < 2:
        return (1.0, 1.0, 1.0) if gains and set(found) & gains.keys() else (0.0, 0.0, 0.0)
    wanted = [[gains.get(one, 0.0) for one in everything]]
    scored = [[float(len(everything) - place) for place in range(len(everything))]]
    hits = len(set(found) & gains.keys())
    ndcg = float(ndcg_score(wanted, scored, k=len(found))) if found else 0.0
    return ndcg, float(hits > 0), hits / len(gains)


def _listed(label: Any) -> Sequence[Any]:
    return label if isinstance(label, list) else [label]
