"""textgenrnn's character network: two LSTMs and attention over the last 40 characters.

The weights come out of the package textgenrnn, which trained them on titles of Reddit; its code, which needs
Keras, is not run. The network was trained on 40 characters at a time, padding before the first, and its LSTMs
count them: their state, carried on beyond that, makes gibberish. So what is carried from step to step is the
window of the last 40 characters, and each step reads it from its beginning.
"""

import hashlib
import importlib.util
import io
import json
from pathlib import Path

import torch

INSTALL = "pip install --no-deps textgenrnn==2.0.0"
SHA256 = {
    "textgenrnn_weights.hdf5": "6a89ca4235ed9f00be7b2acd65d5fe4a099967d676bfe20afb696106286ffbca",
    "textgenrnn_vocab.json": "f9c6c0db9b07fb57da023d32df66e16a488d086c138e15706307bb5177c2be74",
}
TOKENS, EMBEDDED, HIDDEN = 465, 100, 128
WIDTH = EMBEDDED + 2 * HIDDEN


class TextGenRNN(torch.nn.Module):
    """A character, int64 (n,), and those before it, int64 (n, 40) → scores for the next (n, 465)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(TOKENS, EMBEDDED)
        self.first = torch.nn.LSTM(EMBEDDED, HIDDEN, batch_first=True)
        self.second = torch.nn.LSTM(HIDDEN, HIDDEN, batch_first=True)
        self.attention = torch.nn.Linear(WIDTH, 1, bias=False)
        self.scores = torch.nn.Linear(WIDTH, TOKENS)

    def forward(self, token: torch.Tensor, window: torch.Tensor) -> dict[str, torch.Tensor]:
        """One step; the window is 0, which is padding, before the first character."""
        window = torch.cat([window[:, 1:], token[:, None]], dim=1)
        embedded = self.embedding(window)
        one, _ = self.first(embedded)
        two, _ = self.second(one)
        found = torch.cat([embedded, one, two], dim=2)
        weights = self.attention(found).softmax(dim=1)
        return {"logits": self.scores((found * weights).sum(1)), "next_window": window}


def textgenrnn(pretrained: bool = True) -> torch.nn.Module:
    model = TextGenRNN()
    if pretrained:
        found = _weights()
        state = model.state_dict() | {
            "embedding.weight": found["embedding"]["embeddings:0"],
            "attention.weight": found["attention"]["attention_W:0"].T,
            "scores.weight": found["output"]["kernel:0"].T,
            "scores.bias": found["output"]["bias:0"],
        }
        for ours, theirs in (("first", "rnn_1"), ("second", "rnn_2")):
            layer = found[theirs]
            # In cuDNN's order: each gate of the kernel is a matrix (HIDDEN, inputs), whatever Keras says.
            gates = layer["kernel:0"].chunk(4, dim=1)
            state[f"{ours}.weight_ih_l0"] = torch.cat([gate.reshape(HIDDEN, -1) for gate in gates])
            state[f"{ours}.weight_hh_l0"] = torch.cat(layer["recurrent_kernel:0"].chunk(4, dim=1))
            state[f"{ours}.bias_ih_l0"], state[f"{ours}.bias_hh_l0"] = layer["bias:0"].chunk(2)
        model.load_state_dict(state)
    return model


def fetch_files(folder: Path) -> None:
    """Write the characters; the first id is that of the padding."""
    ids = json.loads(_file("textgenrnn_vocab.json"))
    characters = ["<pad>", *sorted(ids, key=ids.__getitem__)]
    (folder / "vocabulary.json").write_text(
        json.dumps(characters, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def _weights() -> dict[str, dict[str, torch.Tensor]]:
    """By layer and name, as Keras keeps them."""
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"pip install h5py: it reads the weights of textgenrnn ({error})") from None
    with h5py.File(io.BytesIO(_file("textgenrnn_weights.hdf5"))) as file:
        return {
            layer: {name: torch.from_numpy(found[()]) for name, found in file[layer][layer].items()}
            for layer in ("embedding", "rnn_1", "rnn_2", "attention", "output")
        }


def _file(name: str) -> bytes:
    """A file of the package, which is what it was when this was written."""
    spec = importlib.util.find_spec("textgenrnn")  # found and not imported: its code wants Keras
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{INSTALL}: it carries the weights")
    raw = (Path(spec.origin).parent / name).read_bytes()
    if hashlib.sha256(raw).hexdigest() != SHA256[name]:
        raise ValueError(f"{INSTALL}: {name} of the installed package is another file than expected")
    return raw
