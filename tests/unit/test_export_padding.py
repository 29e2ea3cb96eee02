"""What a batch is filled up with is no part of an answer, and need not be the same in an artifact."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchmar.archive import build
from torchmar.errors import ParityError
from torchmar.handler_code import handlers
from torchmar.spec import load_model

from ..any_model import write_model

MODULE = """\
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(8, 16)
        layer = torch.nn.TransformerEncoderLayer(16, 2, 16, batch_first=True)
        self.layers = torch.nn.TransformerEncoder(layer, 1)

    def forward(self, input_ids, attention_mask):
        found = self.layers(self.table(input_ids), src_key_padding_mask=attention_mask == 0)
        return {"last_hidden_state": found}


def build():
    torch.manual_seed(1)
    return Net()
"""


def embedder(folder: Path) -> Path:
    contents = {"load.py": MODULE, "words.txt": "a\nb\nc\nd\ne\nf\ng\nh\n"}
    params = {"tokenizer": {"file": "words.txt"}}
    said = {"name": "sentences", "source": "load:build", "handler": "text_embedder", "params": params}
    golden = {"long.txt": "a b c d e f g", "one.txt": "h", "two.txt": "a b"}
    return write_model(folder / "sentences", contents, golden, **said)


def test_a_transformer_that_zeroes_what_is_padded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's fast path does, what is exported does not; the vectors of the texts are the same."""
    model = load_model(embedder(tmp_path))
    built = build(model, tmp_path / "store")
    assert built.archive.parity is not None
    assert built.archive.parity["max_abs_error"] < 1e-5
    assert built.archive.parity["agreement"] == 1
    monkeypatch.setattr(
        handlers("text_handlers").TextHandler, "counted", lambda _self, _batch, outputs: outputs
    )
    where = r"exceeds 0\.001: \w+\[\d+, \d+, \d+\] is 0 by the module and -?[\d.]+ by the artifact"
    with pytest.raises(ParityError, match=where):
        build(model, tmp_path / "other")
