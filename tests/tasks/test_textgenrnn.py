"""textgenrnn's real weights in torch: what its own code computes, and the same text for the same seed."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from handlers.base import Request
from tests.asking import ask

from .models import opened_model

pytestmark = pytest.mark.tasks


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ModuleType]:
    pytest.importorskip("h5py", reason="pip install h5py: it reads the weights of textgenrnn")
    return opened_model("textgenrnn", tmp_path_factory.mktemp("textgenrnn"))


def test_the_same_seed_writes_the_same_title(model: tuple[Any, ModuleType]) -> None:
    """Beside others and alone, at once and in pieces; in words, which gates in another order give none of."""
    handler, _ = model
    body = {"text": "The cat", "seed": 7, "temperature": 0.5, "length": 60}
    one, _, two = ask(handler, body, {**body, "text": "Why", "seed": 8}, body)
    assert one == two == ask(handler, body)[0]
    assert one.content["text"] == " for making a code by a trade to the top of the world is abo"
    decoded = handler.decode(Request({"body": body}, {}))
    assert "".join(handler.stream(decoded.instances[0], decoded.about[0])) == one.content["text"]


def test_each_step_is_that_of_the_last_40_characters(model: tuple[Any, ModuleType]) -> None:
    """As textgenrnn's own code computes it: padding before them, LSTMs from zero."""
    import torch

    handler, load = model
    network = load.textgenrnn().eval()
    ids = np.random.default_rng(0).integers(1, 460, 60).tolist()
    window = np.zeros((1, 40), dtype=np.int64)
    for length, index in enumerate(ids, 1):
        found = handler.model({"token": np.array([index]), "window": window})
        window = found["next_window"]
        last = torch.tensor([([0] * 40 + ids[:length])[-40:]])
        with torch.inference_mode():
            embedded = network.embedding(last)
            one, _ = network.first(embedded)
            both = torch.cat([embedded, one, network.second(one)[0]], dim=2)
            logits = both @ network.attention.weight.T
            mean = (both * logits.exp() / logits.exp().sum(1, keepdim=True)).sum(1)
            assert found["logits"] == pytest.approx(network.scores(mean).numpy(), abs=1e-4)
