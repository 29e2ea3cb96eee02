"""model.yaml's `source` → nn.Module."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from typing import TYPE_CHECKING, Any

from ..errors import ExportError, WeightsUnavailable
from ..guests import handlers
from ..spec import ModelSource
from ._checkpoint import Note, load_weights
from ._guest import FAILURES, PACKAGE, Guest, explained, first_line
from ._weights import PRETRAINED, Weights

if TYPE_CHECKING:
    import torch


def load_module(
    source: ModelSource, weights: Weights, note: Note = lambda _: None, guest: Guest | None = None
) -> torch.nn.Module:
    """The module that model.yaml's `source` builds, in eval mode on the CPU, with its weights loaded.

    `note` is told what the weights' file needed. Raises ExportError, WeightsUnavailable.
    """
    import torch
    from torch.nn.parameter import is_lazy

    try:
        with (guest or Guest(source.directory)).running():
            build = _source_function(source)
            if weights.origin != PRETRAINED:
                torch.manual_seed(weights.seed)
            module = _call_source(source, build, pretrained=weights.origin == PRETRAINED)
    except ExportError:
        raise
    except FAILURES as error:
        raise ExportError(f"{source.directory}: {explained(source, error)}") from error
    if not isinstance(module, torch.nn.Module):
        found = type(module).__name__
        raise ExportError(f"{source.spec.source} returned {found}, expected a torch.nn.Module")
    module = handlers("runtimes").unwrapped(module)
    if weights.file is not None:
        load_weights(module, weights.file, note)
    if any(is_lazy(one) for one in (*module.parameters(), *module.buffers())):
        remedy = "call it once, on zeros, before it is returned"
        raise ExportError(
            f"{source.spec.source}: {remedy}: it has lazy layers, whose shapes nobody knows yet"
        )
    try:
        module = module.cpu().eval()
    except Exception as error:  # on the meta device, which has no numbers
        raise ExportError(
            f"{source.spec.source}: build it with numbers, on the CPU: {first_line(error)}"
        ) from error
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module


def _source_function(source: ModelSource) -> Callable[..., Any]:
    module_name, _, function = source.spec.source.partition(":")
    file = source.directory / f"{module_name}.py"
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            module = importlib.import_module(f"{PACKAGE}.{module_name}")
    except SystemExit as error:
        last = (said.getvalue().strip().splitlines() or [""])[-1]  # what argparse says
        why = explained(source, error) + (f" ({last})" if last else "")
        raise ExportError(f"{file}: {why}") from error
    except Exception as error:
        raise ExportError(f"{file}: {explained(source, error)}") from error
    sys.stderr.write(said.getvalue())
    found = getattr(module, function, None)
    if not callable(found):
        raise ExportError(f"{file}: has no function {function}, which model.yaml's `source` names")
    result: Callable[..., Any] = found
    return result


def _call_source(source: ModelSource, build: Callable[..., Any], *, pretrained: bool) -> Any:
    called = f"{source.spec.source}(pretrained={pretrained})"
    try:
        return build(pretrained=pretrained)
    except FAILURES as error:
        # URLError, timeouts, refused connections, a full disk
        its_own = isinstance(error, FileNotFoundError) and error.filename is not None
        if not (pretrained and isinstance(error, OSError)) or its_own:
            raise ExportError(f"{called}: {explained(source, error)}") from error
        raise WeightsUnavailable(
            f"{source.spec.name}: its pretrained weights could not be fetched: {error}\n"
            "  This machine may not reach the hub they come from. Give them yourself:\n"
            "    --weights FILE            a state dict, saved by torch.save(module.state_dict(), FILE)\n"
            "    --weights random --seed 0 untrained, to try everything else"
        ) from error
