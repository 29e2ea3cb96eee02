"""Generate text: the beginning of a text in, the model's continuation out, token by token.

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
"""Marks a position without a token."""
_SEEDS = 2**53  # every JSON reader holds these exactly


@dataclass(frozen=True)
class State:
    """An array carried from step to step; it is 0 before the first."""

    name: str
    """The model's name for it."""
    shape: tuple[Positive, ...]
    """Its shape, without the batch axis."""
    dtype: Literal["float32", "int64"] = "float32"
    """The type of its numbers."""


@dataclass(frozen=True)
class Params:
    """The tokens, the carried state, and how the next token is drawn."""

    vocabulary: File
    """A .txt with one token per line, or a .json with a list; the first has the id 0."""
    state: tuple[State, ...]
    """The model's inputs beside `token`; it returns them with `next_` before the name."""
    split: Literal["characters", "words"] = "characters"
    """What a token is; one space joins words."""
    begin: str | None = None
    """A token that begins every text; without one, a request must give a beginning."""
    end: str | None = None
    """The token that ends a text; without one every text has `length` tokens."""
    unknown: str | None = None
    """The token for text that the vocabulary lacks; by default such text is refused."""
    never: tuple[str, ...] = ()
    """Tokens that are never written."""
    temperature: Annotated[float, AtLeast(0), AtMost(10)] = 0.7
    """The divisor of logits before a token is drawn, unless a request gives one; 0 takes the likeliest."""
    length: Positive = 200
    """The most tokens to write, unless the request says otherwise."""
    max_length: Positive = 1000
    """The most that a request may ask for."""
    limits: TextLimits = TextLimits(max_characters=1000, max_instances=4)
    """Further limits of one request."""

    def __post_init__(self) -> None:
        if self.length > self.max_length:
            raise ValueError(
                f"length: at most {self.max_length}, as `max_length` says; raise that or lower this"
            )
        if not self.state:
            raise ValueError("state: list what the model carries from step to step, with name and shape")


@dataclass(frozen=True)
class Wanted:
    """What the answer repeats, and whether it comes in parts."""

    prompt: str
    seed: int
    stream: bool


class Handler(BatchHandler[Params]):
    """Answers `{"text", "seed", "ended"}`: the same seed and request give the same text.

    `stream` yields the text of one instance in pieces.
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
        """Return one token, with two more to write."""
        return _inputs([0], 0.0, 0, 2)

    def seeded(self, generator: np.random.Generator) -> Inputs:
        """Return 1 to 8 random tokens, with 4 more to write."""
        prompt = generator.integers(0, len(self._tokens), generator.integers(1, 9))
        return _inputs(
            prompt.tolist(), 0.0, int(generator.integers(0, _SEEDS)), min(4, self.params.max_length)
        )

    def decode(self, request: Request) -> Decoded:
        """Decode the ids of each text's beginning, and the options for its continuation."""
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
        """Pad beginnings to `prompt`, int64 (n, tokens), with NONE; stack the rest."""
        longest = max(len(one["prompt"]) for one in instances)
        prompt = np.full((len(instances), longest), NONE, dtype=np.int64)
        for row, one in enumerate(instances):
            prompt[row, : len(one["prompt"])] = one["prompt"]
        rest = {name: np.stack([one[name] for one in instances]) for name in instances[0] if name != "prompt"}
        return {"prompt": prompt, **rest}

    def infer(self, batch: Inputs) -> Outputs:
        """Return what follows each beginning: `ids`, int64 (n, tokens), padded with NONE."""
        count = len(batch["prompt"])
        written: list[list[int]] = [[] for _ in range(count)]
        for row, token in self._written(batch):
            written[row].append(token)
        ids = np.full((count, max(1, *map(len, written))), NONE, dtype=np.int64)
        for row, tokens in enumerate(written):
            ids[row, : len(tokens)] = tokens
        return {"ids": ids}

    def streams(self, about: Wanted | None) -> bool:
        """Return whether the request says `"stream": true`."""
        return about is not None and about.stream

    def stream(self, inputs: Inputs, about: Wanted | None) -> Iterator[str]:
        """Yield the text of one instance in pieces, as they are written; joined they are its `text`."""
        between = " " if self.params.split == "words" else ""
        for place, (_, token) in enumerate(self._written(self.collate([inputs]))):
            if token == BROKEN:
                raise not_finite("text")
            if token != self._end:
                yield (between if place else "") + self._tokens[token]

    def _written(self, batch: Inputs) -> Iterator[tuple[int, int]]:
        """Yield each written token with its row; all rows advance together.

        An ended row leaves the next step. A row with NaN or infinity ends with BROKEN.
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
        """Run one step of the model. Raises ValueError for unexpected outputs."""
        found = self.model(inputs)
        logits = (len(inputs["token"]), len(self._tokens))
        expected = {"logits": logits} | {f"next_{n}": a.shape for n, a in inputs.items() if n != "token"}
        given = {name: array.shape for name, array in found.items()}
        if given == expected:
            return found
        shapes, wanted = (", ".join(f"{n} {[*shape]}" for n, shape in x.items()) for x in (given, expected))
        if "logits" in given and given["logits"] != logits:
            key = "vocabulary"
            wanted += f": {self.params.vocabulary} has {logits[1]} tokens"
        else:
            key = "state"
        raise ValueError(f"{key}: the model gives {shapes}; expected {wanted}")

    def encode(self, output: Outputs, about: Wanted | None) -> dict[str, Any]:
        """Return the written text, without its beginning."""
        ids = [index for index in output["ids"].tolist() if index != NONE]
        if BROKEN in ids:
            raise not_finite("text")
        ended = self._end is not None and ids[-1:] == [self._end]
        tokens = [self._tokens[index] for index in (ids[:-1] if ended else ids)]
        text = (" " if self.params.split == "words" else "").join(tokens)
        return {"text": text, "seed": about.seed if about else 0, "ended": ended}

    def compare(self) -> Mapping[str, Any]:
        """Compare texts; a random draw may differ near the end."""
        text = {"kind": "text", "max_edits": 0.1}
        return {"kind": "fields", "fields": {"text": text}, "other": text}  # an answer in parts is a text

    def about(self) -> dict[str, Any]:
        """Return what callers may send."""
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
"""Marks a position for which the model gave NaN or infinity."""


class _Row:
    """One text in progress: its beginning, and how its next token is drawn."""

    def __init__(self, inputs: Inputs, never: Sequence[int]) -> None:
        self._prompt = iter([index for index in inputs["prompt"].tolist() if index != NONE])
        self._temperature = float(inputs["temperature"])
        self._generator = np.random.default_rng(int(inputs["seed"]))
        self._never = list(never)
        self.left = int(inputs["length"])
        self.last: int = next(self._prompt)

    def next(self, logits: Any) -> int | None:
        """Return the next written token; None if it belongs to the beginning. Both set `last`."""
        given = next(self._prompt, None)
        if given is not None:
            self.last = given
            return None
        self.left -= 1
        self.last = drawn(logits, self._temperature, self._generator, self._never)
        return self.last


def drawn(logits: Any, temperature: float, generator: np.random.Generator, never: Sequence[int] = ()) -> int:
    """Draw a token by softmax(logits / temperature); returns the likeliest at 0, or BROKEN.

    It computes in float64 and uses one random number, so the same seed draws the same on any runtime, unless
    that number is within the logits' rounding of a limit.
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
