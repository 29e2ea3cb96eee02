"""Load the nn.Module of model.yaml's `source`, and other functions of a model's folder."""

from __future__ import annotations

import importlib
import inspect
import io
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from typing import TYPE_CHECKING, Any

from ..errors import ExportError, WeightsUnavailable
from ..failures import explained, first_line
from ..handler_code import FAILURES, PACKAGE, ModelCode, handlers
from ..spec import ModelSource
from ._checkpoint import Note, load_weights
from ._weights import PRETRAINED, Weights

if TYPE_CHECKING:
    import torch


def load_module(
    source: ModelSource,
    weights: Weights,
    note: Note = lambda _: None,
    model_code: ModelCode | None = None,
    part: str = "model",
) -> torch.nn.Module:
    """Build the module of model.yaml's `source`, in eval mode on the CPU, with its weights loaded.

    `note` receives what the weights' file needed. Raises ExportError, WeightsUnavailable.
    """
    import torch
    from torch.nn.parameter import is_lazy

    named = source.spec.sources[part]
    given = weights.file
    if given is None and weights.origin == PRETRAINED and part in source.spec.artifacts:
        given = source.directory / source.spec.artifacts[part]
    try:
        with (model_code or ModelCode(source.directory)).running():
            build = function_of(source, named, "source")
            if weights.origin != PRETRAINED:
                torch.manual_seed(weights.seed)
            pretrained = weights.origin == PRETRAINED and given is None
            module = _call_source(source, named, build, pretrained=pretrained)
    except ExportError:
        raise
    except FAILURES as error:
        raise ExportError(
            f"{source.directory}: {explained(source.directory, error, source.spec.requirements)}"
        ) from error
    if not isinstance(module, torch.nn.Module):
        found = type(module).__name__
        raise ExportError(f"{named} returned {found}, expected a torch.nn.Module")
    module = handlers("runtimes").unwrapped(module)
    if given is not None:
        load_weights(module, given, note)
    if any(is_lazy(one) for one in (*module.parameters(), *module.buffers())):
        remedy = "call it once, on zeros, before it is returned"
        raise ExportError(f"{named}: {remedy}: it has lazy layers, whose shapes are still unknown")
    try:
        module = module.cpu().eval()
    except Exception as error:  # the meta device has no numbers
        raise ExportError(f"{named}: build it with numbers, on the CPU: {first_line(error)}") from error
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module


def function_of(source: ModelSource, named: str, key: str) -> Callable[..., Any]:
    """Return the function that `key` names as file:function. Raises ExportError."""
    module_name, _, function = named.partition(":")
    file = source.directory / f"{module_name}.py"
    printed = io.StringIO()
    try:
        with redirect_stderr(printed):
            module = importlib.import_module(f"{PACKAGE}.{module_name}")
    except SystemExit as error:
        last = (printed.getvalue().strip().splitlines() or [""])[-1]  # argparse's message
        why = explained(source.directory, error, source.spec.requirements) + (f" ({last})" if last else "")
        raise ExportError(f"{file}: {why}") from error
    except Exception as error:
        raise ExportError(
            f"{file}: {explained(source.directory, error, source.spec.requirements)}"
        ) from error
    sys.stderr.write(printed.getvalue())
    found = getattr(module, function, None)
    if not callable(found):
        raise ExportError(f"{file}: has no function {function}, which `{key}` names")
    result: Callable[..., Any] = found
    return result


def takes_pretrained(build: Callable[..., Any]) -> bool:
    """Return whether a function has a parameter `pretrained`, to leave the weights out."""
    try:
        parameters = inspect.signature(build).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(each.name == "pretrained" or each.kind is each.VAR_KEYWORD for each in parameters)


def _call_source(source: ModelSource, named: str, build: Callable[..., Any], *, pretrained: bool) -> Any:
    asked = {"pretrained": pretrained} if takes_pretrained(build) else {}
    called = f"{named}({', '.join(f'{key}={value}' for key, value in asked.items())})"
    try:
        return build(**asked)
    except FAILURES as error:
        # URLError, timeouts, refused connections, a full disk
        its_own = isinstance(error, FileNotFoundError) and error.filename is not None
        if not (pretrained and isinstance(error, OSError)) or its_own:
            raise ExportError(
                f"{called}: {explained(source.directory, error, source.spec.requirements)}"
            ) from error
        raise WeightsUnavailable(
            f"{source.spec.name}: its pretrained weights could not be fetched: {error}\n"
            "  This machine may not reach the hub they come from. Give them yourself:\n"
            "    --weights FILE            a state dict, saved by torch.save(module.state_dict(), FILE)\n"
            "    --weights random --seed 0 untrained, to try everything else"
        ) from error
