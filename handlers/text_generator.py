"""Text generation: the beginning of a text in, what a model writes after it out, token by token.

The model takes `token`, int64 (n,), and the arrays of its state; it gives `logits` (n, tokens) for the token
that follows, and the next state: `next_hidden` is the `hidden` of the next step.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np

from .base import BatchHandler, Decoded, Inputs, Outputs, Refused, Request
from .params import AtLeast, AtMost, File, Positive
from .texts import TextLimits, asked, vocabulary
from .worker.answers import not_finite

NONE = -1
"""Stands where there is no token."""
_SEEDS = 2**53  # what every reader of JSON holds exactly


@dataclass(frozen=True)
class State:
    """An array that is carried from step to step; it is 0 before the first."""

    name: str
    """What the model calls it."""
    shape: tuple[Positive, ...]
    """Its shape, without the batch axis."""
    dtype: Literal["float32", "int64"] = "float32"
    """Of its numbers."""


@dataclass(frozen=True)
class Params:
    """What the tokens are, what is carried on, and how the next token is drawn."""

    vocabulary: File
    """A .txt with one token a line, or a .json with a list; the first has the id 0."""
    state: tuple[State, ...]
    """What the model takes beside `token`, and gives back with `next_` before the name."""
    split: Literal["characters", "words"] = "characters"
    """What a token is; words are joined by one space."""
    begin: str | None = None
    """A token that every text begins with; without one a request must say how it begins."""
    end: str | None = None
    """The token that ends a text; without one every text has `length` tokens."""
    unknown: str | None = None
    """The token for what the vocabulary lacks; the default is to refuse it."""
    never: tuple[str, ...] = ()
    """Tokens that are never written."""
    temperature: Annotated[float, AtLeast(0), AtMost(10)] = 0.7
    """What logits are divided by before a token is drawn, unless a request says; 0 takes the likeliest."""
    length: Positive = 200
    """How many tokens are written at most, where a request does not say."""
    max_length: Positive = 1000
    """How many a request may ask for."""
    limits: TextLimits = TextLimits(max_characters=1000, max_instances=4)
    """What one request may cost besides."""

    def __post_init__(self) -> None:
        if self.length > self.max_length:
            raise ValueError(
                f"length: at most {self.max_length}, as `max_length` says; raise that or lower this"
            )
        if not self.state:
            raise ValueError("state: list what the model carries from step to step, with name and shape")


@dataclass(frozen=True)
class Wanted:
    """What is told again with an answer, and whether it is wanted in parts."""

    prompt: str
    seed: int
    stream: bool


class Handler(BatchHandler[Params]):
    """Answers `{"text", "seed", "ended"}`: the same seed and request, the same text.

    `stream` gives the text of one instance piece by piece.
    """

    def setup(self) -> None:
        """Read the tokens."""
        params = self.params
        self._tokens = vocabulary(self.files / params.vocabulary)
        self._ids = {token: index for index, token in enumerate(self._tokens)}
        named = {"begin": params.begin, "end": params.end, "unknown": params.unknown}
        for name, token in (*named.items(), *(("never", token) for token in params.never)):
            if token is not None and token not in self._ids:
                raise ValueError(f"{name}: {token!r} is not in {params.vocabulary}")
        self._never = [self._ids[token] for token in params.never]
        self._end = None if params.end is None else self._ids[params.end]

    def example(self) -> Inputs:
        """One token, and two more to be written."""
        return _inputs([0], 0.0, 0, 2)

    def seeded(self, generator: np.random.Generator) -> Inputs:
        """1 to 8 tokens by chance, and 4 more to be written."""
        prompt = generator.integers(0, len(self._tokens), generator.integers(1, 9))
        return _inputs(
            prompt.tolist(), 0.0, int(generator.integers(0, _SEEDS)), min(4, self.params.max_length)
        )

    def decode(self, request: Request) -> Decoded:
        """The ids of how each text begins, and how it is to go on."""
        options = ["temperature", "seed", "length", "stream"]
        rows, listed = asked(request, self.params.limits, options, empty=self.params.begin is not None)
        found = [self._decoded(row, f"instances[{i}]: " if listed else "") for i, row in enumerate(rows)]
        return Decoded([inputs for inputs, _ in found], [about for _, about in found], listed=listed)

    def _decoded(self, row: Mapping[str, Any], where: str) -> tuple[Inputs, Wanted]:
        params = self.params
        temperature = _number(row, "temperature", params.temperature, 0, 10, where)
        chance = secrets.randbelow(_SEEDS) if temperature else 0  # at 0 nothing is drawn
        seed = _integer(row, "seed", chance, 0, _SEEDS - 1, where)
        length = _integer(row, "length", params.length, 1, params.max_length, where)
        stream = row.get("stream", False)
        if not isinstance(stream, bool):
            raise Refused(f"{where}stream: expected true or false")
        begin = [] if params.begin is None else [self._ids[params.begin]]
        inputs = _inputs([*begin, *self._prompt(row["text"], where)], temperature, seed, length)
        return inputs, Wanted(row["text"], seed, stream)

    def _prompt(self, text: str, where: str) -> list[int]:
        unknown = self._ids.get(self.params.unknown or "")
        found: list[int] = []
        for part in [*text] if self.params.split == "characters" else text.split():
            index = self._ids.get(part, unknown)
            if index is None:
                raise Refused(f"{where}{part[:40]!r} is none of the {len(self._tokens)} tokens of this model")
            found.append(index)
        return found

    def collate(self, instances: Sequence[Inputs]) -> Inputs:
        """Beginnings of any lengths, `prompt` int64 (n, tokens), filled up with NONE; the rest as it is."""
        longest = max(len(one["prompt"]) for one in instances)
        prompt = np.full((len(instances), longest), NONE, dtype=np.int64)
        for row, one in enumerate(instances):
            prompt[row, : len(one["prompt"])] = one["prompt"]
        rest = {name: np.stack([one[name] for one in instances]) for name in instances[0] if name != "prompt"}
        return {"prompt": prompt, **rest}

    def infer(self, batch: Inputs) -> Outputs:
        """What is written after each beginning: `ids`, int64 (n, tokens), filled up with NONE."""
        count = len(batch["prompt"])
        written: list[list[int]] = [[] for _ in range(count)]
        for row, token in self._written(batch):
            written[row].append(token)
        ids = np.full((count, max(1, *map(len, written))), NONE, dtype=np.int64)
        for row, tokens in enumerate(written):
            ids[row, : len(tokens)] = tokens
        return {"ids": ids}

    def streams(self, about: Wanted | None) -> bool:
        """Where the request says `"stream": true`."""
        return about is not None and about.stream

    def stream(self, inputs: Inputs, about: Wanted | None) -> Iterator[str]:
        """The text of one instance in pieces, each as soon as it is written; joined they are its `text`."""
        between = " " if self.params.split == "words" else ""
        for place, (_, token) in enumerate(self._written(self.collate([inputs]))):
            if token == BROKEN:
                raise not_finite("text")
            if token != self._end:
                yield (between if place else "") + self._tokens[token]

    def _written(self, batch: Inputs) -> Iterator[tuple[int, int]]:
        """Each token that is written, with the row that it belongs to; all rows go on together.

        One that has ended is left out of the next step. A row without numbers ends with BROKEN.
        """
        count = len(batch["prompt"])
        rows = [_Row({name: array[i] for name, array in batch.items()}, self._never) for i in range(count)]
        live = [*range(len(rows))]
        state = {
            each.name: np.zeros((len(rows), *each.shape), dtype=each.dtype) for each in self.params.state
        }
        while live:
            token = np.array([rows[row].last for row in live], dtype=np.int64)
            outputs = self._outputs_of({"token": token, **state})
            logits = outputs["logits"]
            going = []
            for place, row in enumerate(live):
                written = rows[row].next(logits[place])
                if written is None:  # one of the beginning
                    going.append(place)
                    continue
                yield row, written
                if written not in {self._end, BROKEN} and rows[row].left:
                    going.append(place)
            live = [live[place] for place in going]
            state = {name: outputs[f"next_{name}"][going] for name in state}

    def _outputs_of(self, inputs: Inputs) -> Outputs:
        """One step of the model. Raises ValueError where it gives something else than it should."""
        found = self.model(inputs)
        logits = (len(inputs["token"]), len(self._tokens))
        expected = {"logits": logits} | {f"next_{n}": a.shape for n, a in inputs.items() if n != "token"}
        given = {name: array.shape for name, array in found.items()}
        if given == expected:
            return found
        told, wanted = (", ".join(f"{n} {[*shape]}" for n, shape in x.items()) for x in (given, expected))
        if "logits" in given and given["logits"] != logits:
            key = "vocabulary"
            wanted += f": {self.params.vocabulary} has {logits[1]} tokens"
        else:
            key = "state"
        raise ValueError(f"{key}: the model gives {told}; expected {wanted}")

    def encode(self, output: Outputs, about: Wanted | None) -> dict[str, Any]:
        """The text that was written, without its beginning."""
        ids = [index for index in output["ids"].tolist() if index != NONE]
        if BROKEN in ids:
            raise not_finite("text")
        ended = self._end is not None and ids[-1:] == [self._end]
        tokens = [self._tokens[index] for index in (ids[:-1] if ended else ids)]
        text = (" " if self.params.split == "words" else "").join(tokens)
        return {"text": text, "seed": about.seed if about else 0, "ended": ended}

    def compare(self) -> Mapping[str, Any]:
        """Two answers say the same where their texts do, but for a draw near the end that fell otherwise."""
        text = {"kind": "text", "max_edits": 0.1}
        return {"kind": "fields", "fields": {"text": text}, "other": text}  # an answer in parts is a text

    def about(self) -> dict[str, Any]:
        """What may be sent."""
        about, params = self.params.limits.about(), self.params
        return {
            **about,
            "limits": {**about["limits"], "max_length": params.max_length},
            "options": {
                "temperature": params.temperature,
                "length": params.length,
                "seed": None,
                "stream": False,
            },
            "tokens": len(self._tokens),
        }


# -- one text -----------------------------------------------------------------------------------

BROKEN = -2
"""Stands in place of a token where the model gave NaN or infinity."""


class _Row:
    """One text that is written: what it begins with, and how its next token is drawn."""

    def __init__(self, inputs: Inputs, never: Sequence[int]) -> None:
        self._prompt = iter([index for index in inputs["prompt"].tolist() if index != NONE])
        self._temperature = float(inputs["temperature"])
        self._generator = np.random.default_rng(int(inputs["seed"]))
        self._never = list(never)
        self.left = int(inputs["length"])
        self.last: int = next(self._prompt)

    def next(self, logits: Any) -> int | None:
        """The token that follows; None where it is one of the beginning. Either is `last` now."""
        given = next(self._prompt, None)
        if given is not None:
            self.last = given
            return None
        self.left -= 1
        self.last = drawn(logits, self._temperature, self._generator, self._never)
        return self.last


def drawn(logits: Any, temperature: float, generator: np.random.Generator, never: Sequence[int] = ()) -> int:
    """A token by its probability, softmax(logits / temperature); the likeliest where that is 0, or BROKEN.

    In float64, and by one number from the generator: the same seed draws the same whatever computed the
    logits, but where that number is as near to a limit as logits are rounded.
    """
    found = np.array(logits, dtype=np.float64)
    found[list(never)] = -np.inf
    if np.isnan(found).any() or not np.isfinite(found.max()):
        return BROKEN
    if temperature == 0:
        return int(found.argmax())
    with np.errstate(under="ignore", over="ignore"):
        limits = np.exp((found - found.max()) / temperature).cumsum()
    return min(int(np.searchsorted(limits, generator.random() * limits[-1], side="right")), len(found) - 1)


def _inputs(prompt: Sequence[int], temperature: float, seed: int, length: int) -> Inputs:
    return {
        "prompt": np.array(prompt, dtype=np.int64),
        "temperature": np.float64(temperature),
        "seed": np.int64(seed),
        "length": np.int64(length),
    }


def _number(
    row: Mapping[str, Any], name: str, default: float, least: float, most: float, where: str
) -> float:
    value = row.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise Refused(f"{where}{name}: expected a number from {least} to {most}")
    return float(value)


def _integer(row: Mapping[str, Any], name: str, default: int, least: int, most: int, where: str) -> int:
    value = row.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise Refused(f"{where}{name}: expected a whole number from {least} to {most}")
    return value
