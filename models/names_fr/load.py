"""Names of languages, countries and scripts from English to French: GRUs with attention, trained here.

The pairs are those that the Debian package iso-codes carries (LGPL-2.1+); every tenth is held out. Bahdanau
et al. (2014) is the idea, Luong et al. (2015) the form: attention after the decoder's GRU, by a product.
"""

import gettext
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

CATALOGUES = Path("/usr/share/locale/fr/LC_MESSAGES")
DOMAINS = ("iso_639-3", "iso_639-5", "iso_3166-1", "iso_4217", "iso_15924")
WEIGHTS = "weights.safetensors"
EMBEDDED, HIDDEN, LONGEST, EPOCHS, ROWS = 32, 64, 64, 16, 64
CHARACTERS = 160


class Encoder(torch.nn.Module):
    """Characters and their mask, int64 (n, characters) → a vector for each, and one for all."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(CHARACTERS, EMBEDDED)
        self.forwards = torch.nn.GRU(EMBEDDED, HIDDEN, batch_first=True)
        self.backwards = torch.nn.GRU(EMBEDDED, HIDDEN, batch_first=True)
        self.start = torch.nn.Linear(2 * HIDDEN, 2 * HIDDEN)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """`memory` (n, characters, 128), its mask, and `state` (n, 128); padding changes none of them."""
        lengths = attention_mask.sum(1, keepdim=True)
        places = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        # Each name is turned round within its own length, and so read from its end.
        mirrored = torch.where(places < lengths, lengths - 1 - places, places)
        ahead, _ = self.forwards(self.embedding(input_ids))
        back, _ = self.backwards(self.embedding(input_ids.gather(1, mirrored)))
        back_there = back.gather(1, mirrored[:, :, None].expand(-1, -1, HIDDEN))
        memory = torch.cat([ahead, back_there], dim=2)
        last = (lengths - 1)[:, :, None].expand(-1, -1, HIDDEN)
        ends = torch.cat([ahead.gather(1, last), back.gather(1, last)], dim=2)[:, 0]
        return {"state": torch.tanh(self.start(ends)), "memory": memory, "memory_mask": attention_mask}


class Decoder(torch.nn.Module):
    """The character before, the state and the memory → a score for each character, and the next state."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(CHARACTERS, EMBEDDED)
        self.gru = torch.nn.GRU(EMBEDDED, 2 * HIDDEN, batch_first=True)
        self.query = torch.nn.Linear(2 * HIDDEN, 2 * HIDDEN)
        self.mixed = torch.nn.Linear(4 * HIDDEN, 2 * HIDDEN)
        self.scores = torch.nn.Linear(2 * HIDDEN, CHARACTERS)

    def forward(
        self, token: torch.Tensor, state: torch.Tensor, memory: torch.Tensor, memory_mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """One step: token int64 (n,)."""
        logits, state = self.steps(token[:, None], state, memory, memory_mask)
        return {"logits": logits[:, 0], "next_state": state}

    def steps(
        self, tokens: torch.Tensor, state: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Several steps whose tokens are known, int64 (n, steps): scores (n, steps, characters)."""
        found, state = self.gru(self.embedding(tokens), state[None])
        weights = self.query(found) @ memory.transpose(1, 2)
        weights = weights.masked_fill(mask[:, None, :] == 0, -1e9).softmax(2)
        mixed = torch.tanh(self.mixed(torch.cat([found, weights @ memory], dim=2)))
        return self.scores(mixed), state[0]


def encoder(pretrained: bool = True) -> torch.nn.Module:
    return _with_weights(Encoder(), "encoder.") if pretrained else Encoder()


def decoder(pretrained: bool = True) -> torch.nn.Module:
    return _with_weights(Decoder(), "decoder.") if pretrained else Decoder()


def fetch_files(folder: Path) -> None:
    """Write the characters, and train the weights where they are not there yet."""
    training, _ = pairs()
    characters = [
        "<pad>",
        "<unk>",
        "<s>",
        "</s>",
        *sorted({c for pair in training for text in pair for c in text}),
    ]
    characters += [f"<{i}>" for i in range(len(characters), CHARACTERS)]
    (folder / "vocabulary.txt").write_text("\n".join(characters[:CHARACTERS]) + "\n", encoding="utf-8")
    if not (folder / WEIGHTS).exists():
        from safetensors.torch import save_file

        save_file(_trained(training, {c: i for i, c in enumerate(characters[:CHARACTERS])}), folder / WEIGHTS)


def pairs() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Names in English and French: to train with, and every tenth of a language to be held out."""
    if not CATALOGUES.joinpath("iso_639-3.mo").exists():
        raise ModuleNotFoundError(
            "apt-get install iso-codes: it carries the names that this model learns from"
        )
    training, held_out, seen = [], [], set()
    for domain in DOMAINS:
        with CATALOGUES.joinpath(f"{domain}.mo").open("rb") as file:
            found = gettext.GNUTranslations(file)._catalog  # it has no public way to list them
        names = sorted(
            pair for pair in found.items() if isinstance(pair[0], str) and pair[0] not in {"", *seen}
        )
        for place, (key, text) in enumerate(names):
            seen.add(key)
            if max(len(key), len(text)) < LONGEST and "\n" not in key + text:
                (held_out if domain == "iso_639-3" and place % 10 == 0 else training).append((key, text))
    return training, held_out


def _trained(training: list[tuple[str, str]], ids: dict[str, int]) -> dict[str, torch.Tensor]:
    """The weights of both parts, by the next character of each name; the same seed, the same weights."""
    torch.manual_seed(0)
    parts = torch.nn.ModuleDict({"encoder": Encoder(), "decoder": Decoder()})
    rows = sorted(training, key=lambda pair: (len(pair[0]), len(pair[1])))
    batches = [_batch(rows[start : start + ROWS], ids) for start in range(0, len(rows), ROWS)]
    optimizer = torch.optim.Adam(parts.parameters(), lr=0.002)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.008, total_steps=EPOCHS * len(batches))
    for _ in range(EPOCHS):
        for place in torch.randperm(len(batches)).tolist():
            source, mask, target = batches[place]
            optimizer.zero_grad()
            found = parts["encoder"](source, mask)
            logits, _ = parts["decoder"].steps(target[:, :-1], found["state"], found["memory"], mask)
            loss = cross_entropy(
                logits.flatten(0, 1), target[:, 1:].flatten(), ignore_index=0, label_smoothing=0.05
            )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return {name: tensor.contiguous() for name, tensor in parts.state_dict().items()}


def _batch(
    rows: list[tuple[str, str]], ids: dict[str, int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    def padded(texts: list[list[int]]) -> torch.Tensor:
        longest = max(map(len, texts))
        return torch.tensor([text + [0] * (longest - len(text)) for text in texts])

    source = padded([[*(ids.get(c, 1) for c in english), 3] for english, _ in rows])
    target = padded([[2, *(ids.get(c, 1) for c in french), 3] for _, french in rows])
    return source, (source > 0).to(torch.int64), target


def _with_weights(module: torch.nn.Module, prefix: str) -> torch.nn.Module:
    from safetensors.torch import load_file

    found = load_file(Path(__file__).parent / WEIGHTS)
    module.load_state_dict(
        {name.removeprefix(prefix): t for name, t in found.items() if name.startswith(prefix)}
    )
    return module
