"""Judge texts: word and character error rates (jiwer), BLEU and chrF (sacrebleu)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import DatasetError
from ._evidence import Evidence, Metric, mean_of


def texts(answers: Sequence[Any], labels: Sequence[Any]) -> Evidence:
    """Return what texts show; the word error rate decides."""
    import jiwer
    import numpy as np
    from sacrebleu.metrics import BLEU, CHRF

    found = [_text(one, "answer") for one in answers]
    wanted = [_text(one, "label") for one in labels]
    pairs = list(zip(wanted, found, strict=True))
    words = np.array([_edits(jiwer.process_words, str.split, *pair) for pair in pairs], dtype=float)
    letters = np.array([_edits(jiwer.process_characters, list, *pair) for pair in pairs], dtype=float)

    def rate(edits: Any) -> Callable[[Any], float]:
        return lambda indices: float(edits[indices, 0].sum() / max(edits[indices, 1].sum(), 1))

    def corpus(metric: Any) -> Callable[[Any], float]:
        return lambda indices: float(
            metric.corpus_score([found[one] for one in indices], [[wanted[one] for one in indices]]).score
        )

    metrics = (
        Metric("WER", rate(words), higher=False),
        Metric("CER", rate(letters), higher=False),
        mean_of("exact", [float(one == other) for one, other in pairs], is_share=True),
        Metric("BLEU", corpus(BLEU(effective_order=True))),
        Metric("chrF", corpus(CHRF())),
    )
    return Evidence(metrics, (-words[:, 0] / np.maximum(words[:, 1], 1)).tolist(), resamples=200)


def _text(one: Any, what: str) -> str:
    """Return a text; an answer such as `true` was taken for JSON. Raises DatasetError."""
    if isinstance(one, str):
        return one
    if one is None or isinstance(one, bool | int | float):
        return json.dumps(one)
    raise DatasetError(f"expected a text as {what}, found {one!r:.80}")


def _edits(
    process: Callable[[str, str], Any], parts: Callable[[str], list[str]], wanted: str, found: str
) -> tuple[int, int]:
    """Return the edits between two texts, and the length of the wanted one."""
    if not wanted.strip():  # jiwer takes no empty reference
        return len(parts(found)), 0
    done = process(wanted, found)
    wrong = done.substitutions + done.deletions
    return wrong + done.insertions, wrong + done.hits
