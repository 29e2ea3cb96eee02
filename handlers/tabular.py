"""Predict from tables: rows of named columns in, numbers or classes out."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal

import numpy as np

from .base import Array, BatchHandler, Decoded, Inputs, Outputs, Refused, Request
from .classes import one_hot, ranked
from .labels import read_labels
from .params import File, Positive
from .requests import content_of, some
from .scores import only_scores, only_tensor, require_scores, rows_of_scores, to_probabilities
from .worker.answers import not_finite

FORMS = (
    'send a row as JSON {"column": value, …}, several as {"instances": [{…}, {…}]} or as columns '
    '{"column": [value, …], …}'
)


@dataclass(frozen=True)
class Params:
    """The columns of the table, and what the answer contains."""

    columns: tuple[str, ...]
    """Names of the columns, in the model's order."""
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The values of a column that holds words, in the order of their numbers: {colour: [red, white]}."""
    defaults: Mapping[str, float | str] = field(default_factory=dict)
    """The value of a column that a row omits, or gives as null; without one, such a row is refused."""
    outputs: tuple[str, ...] = ()
    """Names of the model's output numbers; write this or `labels`."""
    labels: tuple[str, ...] | File | None = None
    """Names of the classes: a list, or a file beside model.yaml, .txt with one label per line or .json."""
    scores: Literal["logits", "probabilities", "sigmoid"] = "logits"
    """What the model gives for classes. logits: their softmax gives the probabilities. probabilities: they
    stay unchanged. sigmoid: logits of independent classes. A single output belongs to the second of two
    classes, so `labels` needs two."""
    topk: Positive = 5
    """How many classes an answer lists, the likeliest first."""
    max_rows: Positive = 1000
    """The most rows in one request."""

    def __post_init__(self) -> None:
        if not self.columns or len(set(self.columns)) < len(self.columns):
            raise ValueError("columns: name each column of the table once, and at least one")
        if bool(self.outputs) == (self.labels is not None):
            raise ValueError("outputs: write either `outputs` (numbers) or `labels` (classes)")
        for key, named in (("categories", self.categories), ("defaults", self.defaults)):
            strange = sorted(set(named) - set(self.columns))
            if strange:
                raise ValueError(f"{key}: {', '.join(strange)} is not in `columns`; take it out")
        for name, values in self.categories.items():
            if not values or len(set(values)) < len(values):
                raise ValueError(f"categories: {name}: name each value once, and at least one")
        for name, value in self.defaults.items():
            try:
                _number(value, self.categories.get(name))
            except ValueError as error:
                raise ValueError(f"defaults: {name}: {error}") from None


class Handler(BatchHandler[Params]):
    """Answers `{output: number, …}`, or `[{"label", "index", "probability"}, …]`, the likeliest first.

    The model takes float32 of shape (n, columns), unscaled: scaling the columns is its own part. A word
    becomes its position in `categories`. It gives (n, outputs) or (n, classes).
    """

    def setup(self) -> None:
        """Read the labels."""
        labels = self.params.labels
        self._labels = read_labels(labels, self.files) if isinstance(labels, str) else labels
        self._known = set(self.params.columns)

    def example(self) -> Inputs:
        """Return a row of zeros, with each category's first value."""
        return {"features": np.zeros(len(self.params.columns), dtype=np.float32)}

    def seeded(self, generator: np.random.Generator) -> Inputs:
        """Return numbers near zero, and random values of the categories."""
        features = generator.standard_normal(len(self.params.columns)).astype(np.float32)
        for place, name in enumerate(self.params.columns):
            if name in self.params.categories:
                features[place] = generator.integers(len(self.params.categories[name]))
        return {"features": features}

    def decode(self, request: Request) -> Decoded:
        """Decode one or several rows, each to float32 of shape (columns,)."""
        rows, listed = self._rows(content_of(request, "row", FORMS))
        features = [self._features(row, f"row {i}: " if listed else "") for i, row in enumerate(rows)]
        return Decoded([{"features": one} for one in features], listed=listed)

    def _rows(self, content: Any) -> tuple[Sequence[Any], bool]:
        """Return the rows in any form, and whether the caller sent a list. Raises Refused."""
        if isinstance(content, Mapping) and content.keys() == {"instances"}:
            content = content["instances"]
            if not isinstance(content, list) or not content:
                raise Refused("`instances` must be a list with at least one row")
        elif isinstance(content, Mapping) and any(isinstance(value, list) for value in content.values()):
            content = self._of_columns(content)
        elif isinstance(content, Mapping) or _is_row(content):
            return [content], False
        if not isinstance(content, list) or not content:
            raise Refused(f"no row: found a {type(content).__name__}; {FORMS}")
        self._require_few(len(content))
        return content, True

    def _of_columns(self, columns: Mapping[str, Any]) -> list[dict[str, Any]]:
        lengths = {name: len(value) if isinstance(value, list) else None for name, value in columns.items()}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{str(name)[:40]}: {length or 'no list'}" for name, length in lengths.items())
            raise Refused(f"columns of different lengths ({found}); each needs a value for every row")
        self._require_few(next(iter(lengths.values())) or 0)
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def _require_few(self, count: int) -> None:
        if count > self.params.max_rows:
            raise Refused(
                f"{count} rows in one request, at most {self.params.max_rows} are allowed; "
                "send them in several requests, the server batches them",
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            )

    def _features(self, row: Any, where: str) -> Array:
        """Return one row as float32, with its columns in order. Raises Refused with the faulty names."""
        columns = self.params.columns
        if isinstance(row, list):
            if len(row) != len(columns):
                raise Refused(f"{where}{len(row)} values, the table has {len(columns)}: {', '.join(columns)}")
            row = dict(zip(columns, row, strict=True))
        if not isinstance(row, Mapping):
            raise Refused(f"{where}found a {type(row).__name__}, expected an object; {FORMS}")
        values = {**self.params.defaults, **{name: one for name, one in row.items() if one is not None}}
        self._require_all(row, values, where)
        features = np.zeros(len(columns), dtype=np.float32)
        for place, name in enumerate(columns):
            try:
                features[place] = _number(values[name], self.params.categories.get(name))
            except ValueError as error:
                raise Refused(f"{where}{name}: {error}") from None
        return features

    def _require_all(self, row: Mapping[str, Any], values: Mapping[str, Any], where: str) -> None:
        """Raise Refused with every missing and every unknown column."""
        missing = [name for name in self.params.columns if name not in values]
        unknown = [name for name in row if name not in self._known]
        problems = [f"missing: {', '.join(missing)}"] if missing else []
        if unknown:
            free = [name for name in self.params.columns if name not in row]
            problems.append(f"not in the table: {', '.join(_suggested(name, free) for name in unknown[:5])}")
            problems[-1] += f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        if problems:
            raise Refused(f"{where}{'; '.join(problems)}")

    def graph_suffix(self, output: Any, count: int) -> Any:
        """Return the module's output alone, float32 (n, outputs)."""
        return {"outputs": rows_of_scores(only_tensor(output), count)}

    def infer(self, batch: Inputs) -> Outputs:
        """Return float64 (n, outputs) for rows, or probabilities (n, classes)."""
        found = _numbers(self.model(batch), len(batch["features"]))
        if self._labels is not None:
            found = to_probabilities(found, self.params.scores)
        return {"values": found.astype(np.float64)}

    def warm_up(self) -> None:
        """Infer a few rows, and check the result against `outputs`, or `labels` and `scores`."""
        generator = np.random.default_rng(0)
        rows = [self.example(), *(self.seeded(generator) for _ in range(3))]
        self.examine(self.model(self.collate(rows)), squashed=False)

    def examine(self, outputs: Outputs, *, squashed: bool) -> Sequence[str]:
        """Check the number of outputs against their names, and the scores against `scores`."""
        found = _numbers(outputs, len(next(iter(outputs.values()))))
        key, names = ("outputs", self.params.outputs) if self._labels is None else ("labels", self._labels)
        if self._labels is not None:
            require_scores(self.params.scores, found, lambda: found, squashed=squashed)
        given = 2 if self._labels is not None and found.shape[1] == 1 else found.shape[1]
        if given != len(names):
            raise ValueError(
                f"{key}: the model gives {found.shape[1]} numbers a row, `{key}` names {len(names)}"
            )
        return ()

    def encode(self, output: Outputs, about: Any) -> Any:
        """Return named numbers, or the k likeliest classes. Raises Refused for NaN or infinity."""
        values = output["values"]
        if self._labels is not None:
            return ranked(values, self._labels, self.params.topk, "row")
        if not np.isfinite(values).all():
            raise not_finite("row")
        return dict(zip(self.params.outputs, values.tolist(), strict=True))

    def target(self, label: Any, output: Outputs) -> Outputs:
        """Return 1 for the label's class and 0 for the others; or the numbers that a label gives, by name.

        One number needs no name.
        """
        if self._labels is not None:
            return {"values": one_hot(label, self._labels, len(output["values"]))}
        names = self.params.outputs
        given = label if isinstance(label, Mapping) else dict.fromkeys(names[:1], label)
        if given.keys() != set(names):
            raise ValueError(f"label {str(label)[:40]!r}: expected a number for each of {', '.join(names)}")
        return {"values": np.array([_number(given[name], None) for name in names])}

    def statistics(self, inputs: Inputs) -> Mapping[str, float]:
        """Return the value of each column; of a category its index."""
        return dict(zip(self.params.columns, inputs["features"].tolist(), strict=True))

    def compare(self) -> Mapping[str, Any]:
        """Compare numbers up to rounding, and classes by the likeliest one."""
        return {"kind": "close"} if self._labels is None else {"kind": "first", "by": "label"}

    def about(self) -> dict[str, Any]:
        """Return the columns, and what the answer contains."""
        params = self.params
        return {
            "accepts": ["application/json"],
            "columns": [
                {"name": name, **({"values": params.categories[name]} if name in params.categories else {})}
                for name in params.columns
            ],
            "defaults": dict(params.defaults),
            "limits": {"max_rows": params.max_rows},
            **({"outputs": params.outputs} if self._labels is None else {"labels": self._labels}),
        }


def _is_row(content: Any) -> bool:
    """Return whether it is a row without names: a list of values, not of rows."""
    return isinstance(content, list) and bool(content) and not isinstance(content[0], list | Mapping)


def _number(value: Any, categories: Sequence[str] | None) -> float:
    """Return a value as the model's number. Raises ValueError with the expected one."""
    if categories is not None:
        if isinstance(value, bool) or str(value) not in categories:
            raise ValueError(f"found {_shown(value)}, expected one of {some(categories)}")
        return float(categories.index(str(value)))
    if not isinstance(value, int | float):
        raise ValueError(f"found {_shown(value)}, expected a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not abs(number) <= float(np.finfo(np.float32).max):
        raise ValueError(f"found {_shown(value)}, expected a number that float32 can hold")
    return number


def _suggested(name: Any, columns: Sequence[str]) -> str:
    """Return an unknown name with the most similar column."""
    short = str(name)[:40]
    near = difflib.get_close_matches(short, columns, 1)
    return f"{short!r}" + (f" (is it {near[0]}?)" if near else "")


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    try:
        return str(value)[:40]
    except ValueError:  # an integer with more digits than Python prints
        return "a very long integer"


def _numbers(outputs: Outputs, rows: int) -> Array:
    """Return the only output with fractions, (n, outputs): scikit-learn's converters also give a label."""
    floats = {name: array for name, array in outputs.items() if array.dtype.kind == "f"}
    return only_scores(floats or outputs, rows)
