"""A folder of models/ as torchmar builds it: its module with real weights behind its handler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from handlers.base import BatchHandler
from handlers.runtimes import TorchModel
from tests.asking import NOWHERE
from torchmar.errors import WeightsUnavailable
from torchmar.export import Weights, load_module
from torchmar.handler_code import ModelCode
from torchmar.spec import load_model

MODELS = Path(__file__).resolve().parents[2] / "models"


def module_behind_handler(name: str, **params: Any) -> Any:
    """The handler, ready to answer; `params` besides those of model.yaml. Skips where weights are missing."""
    source = load_model(MODELS / name)
    model_code = ModelCode(source.directory)
    try:
        module = load_module(source, Weights(), model_code=model_code)
    except WeightsUnavailable as error:
        pytest.skip(str(error))
    return behind(
        source.handler_class(model_code), module, {**source.spec.params, **params}, source.directory
    )


def behind(kind: type[BatchHandler[Any]], module: Any, params: Any, files: Path = NOWHERE) -> Any:
    """A handler of this kind with a module in eager PyTorch."""
    from handlers.params import build_params

    handler = kind()
    handler.params = build_params(handler.params_type(), params)
    handler.open(handler.params, files, {"model": TorchModel(module.eval(), handler, 1, None)}, batch_size=4)
    handler.warm_up()
    return handler


def golden(name: str, file: str) -> bytes:
    """A golden request's body."""
    return (MODELS / name / "golden" / file).read_bytes()
