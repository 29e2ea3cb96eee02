"""The language of a text: a model that is trained here, on sentences that it is not asked about."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from tests.asking import ask

from .models import opened_model

pytestmark = [pytest.mark.tasks, pytest.mark.network]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ModuleType]:
    return opened_model("language_id", tmp_path_factory.mktemp("language_id"))


def test_pangrams_of_seven_languages(model: tuple[Any, ModuleType]) -> None:
    """Sentences that no program shows its users; all in one batch."""
    texts = {
        "en": "The quick brown fox jumps over the lazy dog",
        "fr": "Le renard brun saute par-dessus le chien paresseux",
        "de": "Falsches Üben von Xylophonmusik quält jeden größeren Zwerg",
        "es": "El rápido zorro marrón salta sobre el perro perezoso",
        "ru": "Быстрая лиса прыгает через ленивую собаку",
        "fi": "Hyvää huomenta, mitä kuuluu?",
        "ja": "吾輩は猫である",
    }
    found = ask(model[0], *texts.values())
    assert [answer.content[0]["label"] for answer in found] == [*texts]


def test_most_sentences_that_were_held_out(model: tuple[Any, ModuleType]) -> None:
    """Of 20 characters or more, nine of ten at least; what was measured is in docs/tasks."""
    handler, load = model
    _, held_out = load.sentences()
    rows = [(text, language) for text, language in held_out if 20 <= len(text) <= 5000]
    found = [
        ask(handler, {"instances": [text for text, _ in rows[i : i + 32]]})[0]
        for i in range(0, len(rows), 32)
    ]
    labels = [row[0]["label"] for answer in found for row in answer.content["predictions"]]
    assert sum(label == language for label, (_, language) in zip(labels, rows, strict=True)) > 0.9 * len(rows)
