"""Check that a source gives the same weights each time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import ExportError, WeightsUnavailable
from ..handler_code import ModelCode
from ..spec import ModelSource
from ._checkpoint import Note
from ._reference import Recorded
from ._source import load_module
from ._weights import PRETRAINED, Weights

if TYPE_CHECKING:
    import torch

# Limits for the second load: a function that trains must not run for hours again.
_LONGEST = 20.0  # seconds
_LARGEST = 200_000_000  # bytes
# Training with a fixed seed ends in the same weights, except for the order in which threads add.
_CLOSE = 1e-3


def require_same_weights(
    source: ModelSource,
    weights: Weights,
    recorded: Recorded,
    seconds: float,
    model_of: Any,
    note: Note,
    progress: Note,
) -> None:
    """Load a part's module again under another seed. Raises ExportError if it answers otherwise.

    Weights that nobody set are random, and hardly what `pretrained` means. `seconds` is the duration of the
    first load; `model_of` makes a model of a module. Skips a slow or large source and says so by `note`;
    `progress` receives what happens next.
    """
    import torch

    part, module = recorded.part, recorded.model.module
    if weights.origin != PRETRAINED or part in source.spec.artifacts:
        return
    called = source.spec.sources[part]
    size = sum(one.nbytes for one in module.state_dict().values() if isinstance(one, torch.Tensor))
    if seconds > _LONGEST or size > _LARGEST:
        why = f"it took {seconds:.0f} s" if seconds > _LONGEST else f"they are {size / 1e6:,.0f} MB"
        note(f"whether {called} gives the same weights each time was not tried: {why}")
        return
    progress("loading it once more, to see whether its weights are the same")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed((torch.initial_seed() + 1) % 2**63)
        try:
            # A new runner imports the code again, which may set its seed then.
            again = load_module(source, weights, model_code=ModelCode(source.directory), part=part)
        except (ExportError, WeightsUnavailable):
            return  # the weights can be loaded only once
        other = _differing(module, again)
        if not other:
            return
        if not recorded.calls or _answer_alike(recorded, model_of(again)):
            note(f"{called} gives other weights each time, as {other!r}, which change no answer")
            return
    raise ExportError(
        f"{source.spec.name}: give --weights FILE, or --weights random, or set the seed in it: {called} "
        f"gives other weights each time, as {other!r}"
    )


def _differing(one: torch.nn.Module, other: torch.nn.Module) -> str | None:
    """Return the name of the first tensor that differs between both state dicts."""
    import torch

    own: dict[str, Any] = one.state_dict()
    found: dict[str, Any] = other.state_dict()
    for name, tensor in own.items():
        twin = found.get(name)
        if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
            continue
        if not isinstance(twin, torch.Tensor) or twin.shape != tensor.shape:
            return name
        if tensor.is_floating_point() and tensor.numel():
            scale = float(tensor.abs().max())
            same = torch.allclose(tensor, twin, rtol=_CLOSE, atol=_CLOSE * scale, equal_nan=True)
        else:
            same = torch.equal(tensor, twin)
        if not same:
            return name
    return None


def _answer_alike(recorded: Recorded, again: Any) -> bool:
    """Return whether both give the same output for the first recorded input: some weights are never used."""
    import numpy as np
    import torch

    inputs = recorded.calls[0].inputs
    outputs = []
    for model in (recorded.model, again):
        torch.manual_seed(0)
        outputs.append(model(inputs))
    one, other = outputs
    return one.keys() == other.keys() and all(
        array.shape == other[name].shape
        and np.allclose(array, other[name], rtol=_CLOSE, atol=_CLOSE, equal_nan=True)
        for name, array in one.items()
    )
