"""g2p-en's recurrent network: an English word to its phonemes, as ARPAbet writes them.

The weights come out of the package g2p-en, and so do the names of the tokens; its own code is not run.
"""

import hashlib
import importlib.util
import io
from pathlib import Path

import numpy as np
import torch

INSTALL = "pip install --no-deps g2p-en==2.1.0"
SHA256 = "b8af35e4596d8dd5836dfd3fe9b2ba4f97b9c311efe8879544cbcfcbd566d8c6"
LETTERS = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
VOWELS = ["AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"]
CONSONANTS = "B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH"
STRESSED = [f"{vowel}{stress}" for vowel in VOWELS for stress in "012"]
PHONEMES = ["<pad>", "<unk>", "<s>", "</s>", *sorted([*CONSONANTS.split(), *STRESSED, "UW"])]
EMBEDDED, HIDDEN = 256, 256


class Encoder(torch.nn.Module):
    """Letters and their mask, int64 (n, letters) → what is left of the word, float32 (n, 256)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(len(LETTERS), EMBEDDED)
        self.gru = torch.nn.GRU(EMBEDDED, HIDDEN, batch_first=True)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """The state after the last letter of each word, whatever is padded behind it."""
        states, _ = self.gru(self.embedding(input_ids))
        last = attention_mask.sum(1)[:, None, None].expand(-1, 1, HIDDEN) - 1
        return {"state": states.gather(1, last)[:, 0]}


class Decoder(torch.nn.Module):
    """The phoneme before, int64 (n,), and the state (n, 256) → scores for the next, and the next state."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(len(PHONEMES), EMBEDDED)
        self.cell = torch.nn.GRUCell(EMBEDDED, HIDDEN)
        self.scores = torch.nn.Linear(HIDDEN, len(PHONEMES))

    def forward(self, token: torch.Tensor, state: torch.Tensor) -> dict[str, torch.Tensor]:
        """One step."""
        state = self.cell(self.embedding(token), state)
        return {"logits": self.scores(state), "next_state": state}


def encoder(pretrained: bool = True) -> torch.nn.Module:
    return _with_weights(Encoder(), ENCODER) if pretrained else Encoder()


def decoder(pretrained: bool = True) -> torch.nn.Module:
    return _with_weights(Decoder(), DECODER) if pretrained else Decoder()


def fetch_files(folder: Path) -> None:
    """Write the tokens that the network takes and gives."""
    (folder / "vocabulary.txt").write_text("\n".join(LETTERS) + "\n", encoding="utf-8")
    (folder / "vocabulary_phonemes.txt").write_text("\n".join(PHONEMES) + "\n", encoding="utf-8")


ENCODER = {
    "embedding.weight": "enc_emb",
    "gru.weight_ih_l0": "enc_w_ih",
    "gru.weight_hh_l0": "enc_w_hh",
    "gru.bias_ih_l0": "enc_b_ih",
    "gru.bias_hh_l0": "enc_b_hh",
}
DECODER = {
    "embedding.weight": "dec_emb",
    "cell.weight_ih": "dec_w_ih",
    "cell.weight_hh": "dec_w_hh",
    "cell.bias_ih": "dec_b_ih",
    "cell.bias_hh": "dec_b_hh",
    "scores.weight": "fc_w",
    "scores.bias": "fc_b",
}


def _with_weights(module: torch.nn.Module, names: dict[str, str]) -> torch.nn.Module:
    spec = importlib.util.find_spec("g2p_en")  # found and not imported: its code wants NLTK's data
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{INSTALL}: it carries the weights")
    raw = (Path(spec.origin).parent / "checkpoint20.npz").read_bytes()
    if hashlib.sha256(raw).hexdigest() != SHA256:
        raise ValueError(
            f"{INSTALL}: checkpoint20.npz of the installed package is another file than expected"
        )
    found = np.load(io.BytesIO(raw))
    module.load_state_dict({ours: torch.from_numpy(found[theirs]) for ours, theirs in names.items()})
    return module
