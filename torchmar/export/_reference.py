"""Record a handler's answers and its model's calls, with the module or with the artifact."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..answers import parsed
from ..compare import Comparator
from ..errors import ExportError
from ..failures import explained
from ..golden import apart, request_of
from ..handler_code import FAILURES, ModelCode, handlers
from ..spec import ModelSource, located

Named = Mapping[str, Any]
"""Arrays by name, with a batch axis."""

_SEEDED = 4
_WIDE = 120  # characters of an answer
_MOST_CALLS = 64  # of a model that one answer calls many times


@dataclass(frozen=True)
class Call:
    """One forward pass of a part of a model."""

    inputs: Named
    outputs: Named

    @property
    def rows(self) -> int:
        """Return how many instances it was for."""
        return len(next(iter(self.inputs.values())))


@dataclass
class Recorded:
    """A model that records its inputs and outputs."""

    part: str
    model: Any
    calls: list[Call] = field(default_factory=list)

    def __call__(self, inputs: Named) -> Named:
        """Return the model's outputs."""
        try:
            outputs: Named = self.model(inputs)
        except FAILURES as error:
            raise Failed(self, inputs) from error
        if len(self.calls) < _MOST_CALLS:
            self.calls.append(Call(inputs, outputs))
        return outputs


class Failed(Exception):
    """A part of a model raised its cause for these inputs."""

    def __init__(self, recorded: Recorded, inputs: Named) -> None:
        super().__init__(recorded.part)
        self.part, self.model, self.inputs = recorded.part, recorded.model, inputs

    def remedy(self, *, is_file: bool) -> str:
        """Return the remedy if one is known; it ends in a colon.

        `is_file` says that somebody else exported the model.
        """
        module = getattr(self.model, "module", None)
        kinds = (
            set()
            if module is None
            else {str(one.dtype).removeprefix("torch.") for one in module.parameters()}
        )
        if kinds - {"float32"}:
            listed = ", ".join(sorted(kinds - {"float32"}))
            return f"its inputs are float32, the weights {listed}: end with `.float()`: "
        count, rows = len(next(iter(self.inputs.values()))), getattr(self.model, "fixed_rows", None)
        if is_file and rows is None and count > 1 and all(self._takes([row]) for row in range(count)):
            rows = 1
        if is_file and rows is not None:
            return (
                f"export it with a free batch axis (dynamic_axes, dynamic_shapes), which is fixed at {rows}: "
            )
        if count == 1 and self._takes([0, 0]):
            return "keep the batch dimension, as flatten(1) does and squeeze() does not: "
        return ""

    def _takes(self, rows: Sequence[int]) -> bool:
        try:
            self.model({name: array[[*rows]] for name, array in self.inputs.items()})
        except FAILURES:
            return False
        return True


def shapes_of(inputs: Named) -> str:
    """Return the shapes of inputs, for people."""
    shapes = [f"{list(array.shape)}" for array in inputs.values()]
    if len(shapes) == 1:
        return f"shape {shapes[0]}"
    return "shapes " + ", ".join(f"{name} {shape}" for name, shape in zip(inputs, shapes, strict=True))


@dataclass(frozen=True)
class Example:
    """A handler's input: with a golden request's name, or None for a random instance."""

    name: str | None
    decoded: Any


def examples(source: ModelSource, handler: Any, seed: int) -> list[Example]:
    """Return random instances, then the golden requests. Raises ExportError."""
    import numpy as np

    generator = np.random.default_rng(seed)
    base = handlers("base")
    found = [Example(None, base.Decoded([handler.seeded(generator)])) for _ in range(_SEEDED)]
    for path in source.golden_files():
        try:
            content = request_of(path.name, path.read_bytes())
            decoded, again = (handler.decode(base.Request(content.parsed(), {})) for _ in range(2))
        except base.Refused as error:
            raise ExportError(f"golden request {path}: remove it, or put it right: {error.reason}") from None
        except OSError as error:
            raise source.unreadable(error) from None
        if not all(map(_same_arrays, decoded.instances, again.instances)):
            raise ExportError(
                f"golden request {path}: give it a seed, or whatever else its handler draws by chance where "
                "a request does not say: the same request must be answered the same"
            )
        found.append(Example(path.name, decoded))
    return found


def _same_arrays(one: Named, other: Named) -> bool:
    import numpy as np

    return one.keys() == other.keys() and all(
        np.asarray(array).tobytes() == np.asarray(other[name]).tobytes() for name, array in one.items()
    )


def answers(handler: Any, asked: Sequence[Example]) -> list[Any]:
    """Return each example's answer, as its caller gets it: JSON, text or bytes.

    The batches have 1 and 3 instances: neither always one, nor all. A response in parts counts as a whole.
    Raises Failed, and what the handler raises.
    """
    streamed = {
        place: _joined(handler, one.decoded) for place, one in enumerate(asked) if _streams(handler, one)
    }
    whole = [one for place, one in enumerate(asked) if place not in streamed]
    instances = [inputs for example in whole for inputs in example.decoded.instances]
    abouts = [about for example in whole for about in _abouts(example.decoded)]
    encoded: dict[int, Any] = {}
    for batch in _batches(handler, instances):
        found = handler.split(handler.infer(handler.collate([instances[i] for i in batch])), len(batch))
        for index, output in zip(batch, found, strict=True):
            encoded[index] = handler.encode(output, abouts[index])
    rows = iter(encoded[index] for index in range(len(instances)))
    return [
        streamed[place]
        if place in streamed
        else _answer(example, [next(rows) for _ in example.decoded.instances])
        for place, example in enumerate(asked)
    ]


def outputs_and_answer(handler: Any, example: Example) -> tuple[list[Named], Any]:
    """Return the outputs of each of an example's instances, and its answer, as of a request that came alone.

    There are no outputs of a response in parts. Raises Failed, and what the handler raises.
    """
    decoded = example.decoded
    if _streams(handler, example):
        return [], _joined(handler, decoded)
    found: dict[int, Named] = {}
    for group in handler.alike(decoded.instances):
        for batch in [group] if handler.batched else [[each] for each in group]:
            together = handler.infer(handler.collate([decoded.instances[i] for i in batch]))
            found |= zip(batch, handler.split(together, len(batch)), strict=True)
    outputs = [found[index] for index in range(len(decoded.instances))]
    return outputs, _answer(example, [*map(handler.encode, outputs, _abouts(decoded))])


def mixed_rows(handler: Any, asked: Sequence[Example], comparator: Comparator) -> str:
    """Describe an instance whose answer changes beside others in a batch; '' if there is none."""
    whole = [one.decoded for one in asked if not _streams(handler, one)]
    instances = [inputs for decoded in whole for inputs in decoded.instances]
    abouts = [about for decoded in whole for about in _abouts(decoded)]
    groups = [group for group in handler.alike(instances) if len(group) > 1] if handler.batched else []
    for first, *others in groups:

        def answer(batch: Sequence[int], first: int = first) -> Any:
            found = handler.infer(handler.collate([instances[i] for i in batch]))
            return handler.encode(next(iter(handler.split(found, len(batch)))), abouts[first])

        alone, beside = answer([first]), answer([first, *others[:2]])
        if not comparator.same(alone, beside):
            place, one, other = apart(alone, beside, comparator.tolerance, _WIDE)
            return f"{place}{one} alone, and {other} beside others"
    return ""


def _abouts(decoded: Any) -> Sequence[Any]:
    return decoded.about or [None] * len(decoded.instances)


def _streams(handler: Any, example: Example) -> bool:
    """Return whether the answer comes in parts, by the handler's decision (handlers/base.py)."""
    decoded = example.decoded
    alone = len(decoded.instances) == 1 and not decoded.listed
    return alone and bool(handler.streams(_abouts(decoded)[0]))


def _joined(handler: Any, decoded: Any) -> Any:
    """Return a response in parts as its caller has it in the end."""
    parts = handler.stream(decoded.instances[0], _abouts(decoded)[0])
    return parsed(b"".join(part.encode() if isinstance(part, str) else part for part in parts))


def _batches(handler: Any, instances: Sequence[Named]) -> Iterator[Sequence[int]]:
    for alike in handler.alike(instances):
        yield alike[:1]
        several = 3 if handler.batched else 1
        for start in range(1, len(alike), several):
            yield alike[start : start + several]


def _answer(example: Example, rows: Sequence[Any]) -> Any:
    content = {"predictions": list(rows)} if example.decoded.listed else rows[0]
    if isinstance(content, handlers("base").Content):
        body = content.body
        return parsed(body.encode() if isinstance(body, str) else body)
    return json.loads(json.dumps(content, allow_nan=False))


def handler_failed(
    source: ModelSource,
    kind: type[Any],
    error: BaseException,
    ran_in: Path | None = None,
    recorded: Mapping[str, Recorded] | None = None,
) -> ExportError:
    """Return the error for a handler that did not answer; `recorded` are the parts it called."""
    spec = source.spec
    if not isinstance(error, Failed):
        refused = handlers("base").Refused
        place = located(source, kind, error)
        if place is not None:
            return ExportError(place)
        why = error.reason if isinstance(error, refused) else None
        why = why or explained(source.directory, error, spec.requirements, ran_in)
        if isinstance(error, KeyError):
            why += _given(recorded or {})
        return ExportError(f"{spec.name}: its handler does not answer what it is asked: {why}")
    cause = error.__cause__
    assert cause is not None
    if isinstance(cause, handlers("runtimes").Unfit):
        return ExportError(f"{spec.name}: let `forward` return what the handler takes: {cause}")
    why = explained(source.directory, cause, spec.requirements, ran_in)
    called = _called(error.part) if spec.sources else spec.artifacts[error.part]
    what = f"{called} fails on inputs of {shapes_of(error.inputs)}"
    return ExportError(f"{what}: {error.remedy(is_file=not spec.sources)}{why}")


def _given(recorded: Mapping[str, Recorded]) -> str:
    """Return the names of each part's outputs, because the handler may have asked for others."""
    gave = {_called(part): ", ".join(one.calls[0].outputs) for part, one in recorded.items() if one.calls}
    return "".join(f" ({part} gives {names})" for part, names in gave.items())


def _called(part: str) -> str:
    return "the module" if part == "model" else f"the module {part}"


def torch_model(kind: type[Any], params: Any, module: Any) -> Any:
    """Return a module as a handler of this kind calls it; the number of torch's threads stays unchanged."""
    import torch

    blank = kind()
    blank.params = params
    return handlers("runtimes").TorchModel(module, blank, torch.get_num_threads(), None)


def opened(
    source: ModelSource,
    kind: type[Any],
    params: Any,
    files: Path,
    models: Mapping[str, Any],
    model_code: ModelCode,
) -> Any:
    """Return a handler, ready to answer. Raises ExportError."""
    try:
        with model_code.running():
            handler = kind()
            handler.open(params, files, models)
    except FAILURES as error:
        why = explained(source.directory, error, source.spec.requirements, files)
        raise ExportError(f"{source.spec.name}: its handler does not start: {why}") from error
    return handler
