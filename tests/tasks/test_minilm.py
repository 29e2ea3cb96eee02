"""all-MiniLM-L6-v2 with its real weights: embeddings, and summaries by them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.asking import ask

from .models import MODELS, opened_model

pytestmark = [pytest.mark.tasks, pytest.mark.network]


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return opened_model("minilm", tmp_path_factory.mktemp("minilm"))[0]


@pytest.fixture(scope="module")
def summarizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return opened_model("minilm", tmp_path_factory.mktemp("minilm"), file="summary.yaml")[0]


def test_a_cat_is_nearer_to_a_kitten_than_to_stocks(embedder: Any) -> None:
    """0.79 against 0.20, all three in one batch; a longer text beside them changes nothing."""
    cat, kitten, stocks, _ = (
        np.array(answer.content) for answer in ask(embedder, "cat", "kitten", "stocks", "x " * 200)
    )
    assert cat @ kitten == pytest.approx(0.788, abs=0.001)
    assert cat @ stocks == pytest.approx(0.203, abs=0.001)
    assert np.linalg.norm(cat) == pytest.approx(1)
    [alone] = ask(embedder, "cat")
    assert alone.content == pytest.approx(cat, abs=1e-5)


def test_the_sentence_that_says_it_all_is_the_summary(summarizer: Any) -> None:
    """The golden text, of three sentences."""
    text = (MODELS / "minilm" / "golden_summary" / "storks.txt").read_text(encoding="utf-8")
    [answer] = ask(summarizer, {"text": text, "sentences": 1})
    assert (
        answer.content["summary"]
        == "The white stork is a large bird that builds its nest on roofs and chimneys."
    )


def test_a_text_in_another_language_than_the_models(summarizer: Any) -> None:
    """It is parted and answered too; how well depends on what the model has read."""
    [answer] = ask(
        summarizer, {"text": "吾輩は猫である。名前はまだ無い。どこで生れたか見当がつかぬ。", "sentences": 2}
    )
    assert len(answer.content["sentences"]) == 2
