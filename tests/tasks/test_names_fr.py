"""Names from English to French, by a network that is trained here; it takes a minute or two."""

from __future__ import annotations

from typing import Any

import pytest

from tests.asking import ask

from .models import opened_model

pytestmark = [pytest.mark.tasks, pytest.mark.network]


def test_names_that_were_held_out(tmp_path: Any) -> None:
    """More are right than copies would be, and some of those that change; docs/tasks has the numbers."""
    handler, load = opened_model("names_fr", tmp_path)
    _, held_out = load.pairs()
    found = []
    for start in range(0, len(held_out), 32):
        [answer] = ask(handler, {"instances": [english for english, _ in held_out[start : start + 32]]})
        found += [row["text"] for row in answer.content["predictions"]]
    right = [text == french for text, (_, french) in zip(found, held_out, strict=True)]
    changed = [english.lower() != french.lower() for english, french in held_out]
    assert sum(right) > len(held_out) - sum(changed)
    assert sum(r and c for r, c in zip(right, changed, strict=True)) > 0.25 * sum(changed)
    [kurdish, nigeria] = ask(handler, "Central Kurdish", "Jimi (Nigeria)")
    assert (kurdish.content["text"], nigeria.content["text"]) == ("kurde central", "jimi (Nigéria)")
