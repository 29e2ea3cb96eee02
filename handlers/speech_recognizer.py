"""Recognise speech: WAV files in, text out, by greedy decoding with a model like Whisper."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from .audio import Limits, Samples, recordings
from .base import Array, BatchHandler, Decoded, Inputs, Outputs, Request
from .mel import RATE, SECONDS, log_mel
from .params import File, Positive, Share
from .texts import TOKENIZERS, open_tokenizer

_CUT = 5  # seconds at the end of a window; the cut is at the quietest moment in them
_QUIET = RATE // 10
_WINDOWS_AT_ONCE = 4  # the encoder's output for one is 37 MB


@dataclass(frozen=True)
class Params:
    """What to hear, and how to write it down."""

    tokenizer: File
    """tokenizer.json of Hugging Face's tokenizers, beside model.yaml."""
    suppress: File | None = None
    """JSON beside model.yaml with tokens that are never chosen: Hugging Face's generation_config.json
    (suppress_tokens, begin_suppress_tokens) or CTranslate2's config.json (suppress_ids,
    suppress_ids_begin)."""
    language: str | None = "en"
    """The spoken language, as `en`; null lets the model decide."""
    task: Literal["transcribe", "translate"] = "transcribe"
    """translate: into English."""
    bands: Positive = 80
    """Bands of the spectrogram: 128 for Whisper large-v3, else 80."""
    max_tokens: Positive = 224
    """The most tokens for 30 seconds."""
    no_speech: Share = 0.6
    """The probability of silence above which a window of 30 seconds gives no text."""
    limits: Limits = Limits()
    """The limits of one request."""


class Handler(BatchHandler[Params]):
    """Answers `{"text", "language", "seconds"}`.

    `encoder` takes `mel`, float32 (n, bands, 3000), and gives `memory` with the batch axis first. `decoder`
    takes `tokens`, int64 (n, length), and `memory`, and gives `logits` of the next token, float32 (n,
    vocabulary).
    """

    dynamic: ClassVar[Mapping[str, Mapping[int, str]]] = {"tokens": {1: "length"}}
    requirements: ClassVar[Sequence[str]] = (TOKENIZERS,)

    def setup(self) -> None:
        """Read the tokenizer. Raises ValueError if it is not Whisper's."""
        params = self.params
        self._tokenizer = open_tokenizer(self.files / params.tokenizer, "tokenizer")
        self._start = self._token("startoftranscript")
        self._end = self._token("endoftext")
        self._silence = self._token("nospeech", "nocaptions")
        self._task, self._no_times = self._token(params.task), self._token("notimestamps")
        # The languages lie between the start and the tasks; tokens after the end are no text.
        self._languages = range(self._start + 1, min(self._token("translate"), self._token("transcribe")))
        self._language = None if params.language is None else self._language_of(params.language)
        suppress = None if params.suppress is None else self.files / params.suppress
        self._never, self._never_first = _suppressed(suppress)

    def _token(self, *names: str) -> int:
        found = [self._tokenizer.token_to_id(f"<|{name}|>") for name in names]
        known = [token for token in found if token is not None]
        if not known:
            raise ValueError(f"tokenizer: {self.params.tokenizer} has no <|{names[0]}|>; it is not Whisper's")
        return int(known[0])

    def _language_of(self, language: str) -> int:
        languages = {self._name_of(token): token for token in self._languages}
        if language not in languages:
            raise ValueError(f"language: {language!r} is not known, but {' '.join(languages)}")
        return languages[language]

    def _name_of(self, token: int) -> str:
        """Return en for <|en|>."""
        return str(self._tokenizer.id_to_token(token))[2:-2]

    # -- sound to spectrograms ---------------------------------------------------------------------

    def example(self) -> Inputs:
        """Return a second of silence."""
        return self._instance(np.zeros(RATE, dtype=np.float32))

    def seeded(self, generator: np.random.Generator) -> Inputs:
        """Return three random tones."""
        moments = np.arange(2 * RATE) / RATE
        pitches = generator.uniform(100, 1_000, 3)
        sound = 0.1 * np.sin(2 * np.pi * pitches[:, None] * moments).sum(axis=0)
        return self._instance(sound.astype(np.float32))

    def _instance(self, samples: Samples) -> Inputs:
        return {"mel": np.stack([log_mel(window, self.params.bands) for window in windows(samples)])}

    def decode(self, request: Request) -> Decoded:
        """Decode files to spectrograms, float32 (windows, bands, 3000)."""
        found, listed = recordings(request, self.params.limits, RATE)
        return Decoded([*map(self._instance, found)], [len(samples) / RATE for samples in found], listed)

    # -- spectrograms to tokens --------------------------------------------------------------------

    def infer(self, batch: Inputs) -> Outputs:
        """Return tokens (n, windows, max_tokens), padded with the end token, and the language (n,)."""
        mel = batch["mel"]
        several = mel.reshape(-1, *mel.shape[2:])
        starts = range(0, len(several), _WINDOWS_AT_ONCE)
        parts = [self._heard(several[i : i + _WINDOWS_AT_ONCE]) for i in starts]
        tokens, languages = (np.concatenate(found) for found in zip(*parts, strict=True))
        shape = mel.shape[:2]
        return {"tokens": tokens.reshape(*shape, -1), "language": languages.reshape(shape)[:, 0]}

    def _heard(self, mel: Array) -> tuple[Array, Array]:
        memory = self.models["encoder"]({"mel": mel})["memory"]
        rows = len(mel)
        start = np.full((rows, 1), self._start, dtype=np.int64)
        first = self._logits(start, memory)
        languages = np.full(rows, self._language) if self._language else self._spoken(first)
        silent = _softmax(first)[:, self._silence] > self.params.no_speech
        task = np.tile(np.array([self._task, self._no_times], dtype=np.int64), (rows, 1))
        tokens = np.concatenate([start, languages[:, None].astype(np.int64), task], axis=1)
        prompt, going = tokens.shape[1], ~silent
        while going.any() and tokens.shape[1] < prompt + self.params.max_tokens:
            logits = self._allowed(self._logits(tokens, memory), first=tokens.shape[1] == prompt)
            chosen = np.where(going, logits.argmax(axis=1), self._end)
            going &= chosen != self._end
            tokens = np.concatenate([tokens, chosen[:, None]], axis=1)
        missing = prompt + self.params.max_tokens - tokens.shape[1]
        return np.pad(tokens[:, prompt:], ((0, 0), (0, missing)), constant_values=self._end), languages

    def _logits(self, tokens: Array, memory: Array) -> Array:
        logits = self.models["decoder"]({"tokens": tokens, "memory": memory})["logits"]
        found: Array = logits.astype(np.float32)
        return found

    def _spoken(self, logits: Array) -> Array:
        """Return the likeliest language after the start."""
        languages = np.array(self._languages)
        found: Array = languages[logits[:, languages].argmax(axis=1)]
        return found

    def _allowed(self, logits: Array, *, first: bool) -> Array:
        """Mask tokens that are no text, and those that are never chosen."""
        allowed: Array = logits.copy()
        allowed[:, self._end + 1 :] = -np.inf
        never = self._never + self._never_first if first else self._never
        allowed[:, [token for token in never if token < allowed.shape[1]]] = -np.inf
        return allowed

    def warm_up(self) -> None:
        """Hear silence and predict one token; check the vocabulary's size against the tokenizer's."""
        memory = self.models["encoder"]({"mel": self.example()["mel"]})["memory"]
        logits = self._logits(np.full((1, 1), self._start, dtype=np.int64), memory)
        if logits.ndim != 2 or logits.shape[1] <= self._no_times:
            raise ValueError(
                f"the decoder gives {list(logits.shape)}, expected (n, vocabulary) for the "
                f"{self._tokenizer.get_vocab_size():,} tokens of {self.params.tokenizer}"
            )

    # -- tokens to text ----------------------------------------------------------------------------

    def encode(self, output: Outputs, about: float | None) -> dict[str, Any]:
        """Return the text of all windows, the language, and the duration."""
        texts = [self._tokenizer.decode(row[row != self._end].tolist()).strip() for row in output["tokens"]]
        seconds = float(SECONDS * len(texts)) if about is None else about
        language = self._name_of(int(output["language"]))
        return {"text": " ".join(filter(None, texts)), "language": language, "seconds": round(seconds, 3)}

    def compare(self) -> Mapping[str, Any]:
        """Compare texts; a tenth of the letters may differ."""
        return {"kind": "fields", "fields": {"text": {"kind": "text", "max_edits": 0.1}}}

    def about(self) -> dict[str, Any]:
        """Return what callers may send."""
        return {
            "accepts": ["audio/wav"],
            "language": self.params.language,
            "task": self.params.task,
            "limits": asdict(self.params.limits),
        }


def windows(samples: Samples) -> list[Samples]:
    """Split a sound into parts of at most 30 seconds, at the quietest tenth of their last five seconds."""
    found = []
    while len(samples) > SECONDS * RATE:
        tail = samples[(SECONDS - _CUT) * RATE : SECONDS * RATE].astype(np.float64)
        loudness = np.convolve(tail**2, np.ones(_QUIET), mode="valid")
        cut = (SECONDS - _CUT) * RATE + int(loudness.argmin()) + _QUIET // 2
        found.append(samples[:cut])
        samples = samples[cut:]
    return [*found, samples]


def _softmax(logits: Array) -> Array:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: Array = exponentials / exponentials.sum(axis=1, keepdims=True)
    return found


def _suppressed(file: Path | None) -> tuple[list[int], list[int]]:
    """Return the tokens that are never chosen, and those that are never first. Raises ValueError."""
    if file is None:
        return [], []
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        always = content.get("suppress_ids", content.get("suppress_tokens")) or []
        first = content.get("suppress_ids_begin", content.get("begin_suppress_tokens")) or []
        return [int(token) for token in always], [int(token) for token in first]
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"suppress: {file.name}: no lists of tokens: {error}") from None
