"""Which of twenty languages a text is in: an EmbeddingBag over letters and their neighbours.

It is trained in seconds on the sentences that Django shows its users, which its package carries in each of
the languages (BSD-3-Clause).
"""

import gettext
import importlib.util
import re
from collections import Counter
from pathlib import Path

import torch

LANGUAGES = ["ar", "cs", "de", "el", "en", "es", "fi", "fr", "hu", "it", "ja", "nl", "pl", "pt", "ro"]
LANGUAGES += ["ru", "sv", "tr", "uk", "zh_Hans"]
NGRAMS, TOKENS, LONGEST, WIDTH = 3, 12_000, 128, 32
_MARKUP = re.compile(r"%\(\w+\)[a-z]|%[a-z]|\{[^}]*\}|<[^>]*>|&\w+;")


class LanguageId(torch.nn.Module):
    """Ids of n-grams, int64 (n, tokens), 0 where there is none → a score for each language."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = torch.nn.EmbeddingBag(TOKENS, WIDTH, mode="mean", padding_idx=0)
        self.scores = torch.nn.Linear(WIDTH, len(LANGUAGES))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """The scores, float32 (n, languages)."""
        return self.scores(self.bag(input_ids))


def language_id(pretrained: bool = True) -> torch.nn.Module:
    torch.manual_seed(0)
    model = LanguageId()
    if not pretrained:
        return model
    training, _ = sentences()
    ids = {token: index for index, token in enumerate(vocabulary(training))}
    inputs = torch.zeros(len(training), LONGEST, dtype=torch.int64)
    for row, (text, _) in enumerate(training):
        known = [ids[gram] for gram in ngrams(text) if gram in ids][:LONGEST]
        inputs[row, : len(known)] = torch.tensor(known, dtype=torch.int64)
    wanted = torch.tensor([LANGUAGES.index(language) for _, language in training])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(6):
        for rows in torch.randperm(len(wanted)).split(128):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs[rows]), wanted[rows]).backward()
            optimizer.step()
    return model


def fetch_files(folder: Path) -> None:
    """Write labels.txt and vocabulary.txt."""
    (folder / "labels.txt").write_text("\n".join(LANGUAGES) + "\n", encoding="utf-8")
    tokens = vocabulary(sentences()[0])
    (folder / "vocabulary.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")


def ngrams(text: str) -> list[str]:
    """As the handler finds them: single characters, then pairs, then three at a time."""
    text = text.lower()
    return [text[i : i + length] for length in range(1, NGRAMS + 1) for i in range(len(text) - length + 1)]


def vocabulary(training: list[tuple[str, str]]) -> list[str]:
    """The most frequent n-grams; the first stands for none."""
    counted: Counter[str] = Counter()
    for text, _ in training:
        counted.update(gram for gram in ngrams(text) if "\n" not in gram)
    frequent = sorted(counted, key=lambda gram: (-counted[gram], gram))
    return ["[PAD]", *frequent[: TOKENS - 1]]


def sentences() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Texts with their languages, to train with and to be held out: every tenth sentence in all languages."""
    spec = importlib.util.find_spec("django")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("pip install django: its translations are what this model learns from")
    folder = Path(spec.origin).parent
    by_language = {language: _messages(folder, language) for language in LANGUAGES if language != "en"}
    by_language["en"] = {key: key for found in by_language.values() for key in found}
    keys = sorted(by_language["en"])
    held_out = {*keys[::10]}
    training, other = [], []
    for language in LANGUAGES:
        for key in keys:
            text = " ".join(_MARKUP.sub(" ", by_language[language].get(key, "")).split())
            if len(text) >= 3:
                (other if key in held_out else training).append((text, language))
    return training, other


def _messages(folder: Path, language: str) -> dict[str, str]:
    """Each message of Django's catalogues that is translated, by what it is in English."""
    found: dict[str, str] = {}
    for file in sorted(folder.glob(f"**/{language}/LC_MESSAGES/django.mo")):
        with file.open("rb") as opened:
            catalogue = gettext.GNUTranslations(opened)._catalog  # it has no public way to list them
        for key, text in catalogue.items():
            if isinstance(key, str) and key and text != key:
                found[key.rpartition("\x04")[2]] = text
    return found
