"""The models of models/ as modules behind their handlers, each in a copy of its folder."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from handlers.base import BatchHandler
from handlers.params import build_params
from handlers.runtimes import TorchModel

MODELS = Path(__file__).parents[2] / "models"


def opened_model(name: str, folder: Path, file: str = "model.yaml", **params: Any) -> tuple[Any, ModuleType]:
    """The handler of models/<name> on its module with real weights, and its load.py; skips without them.

    `params` replace those of model.yaml.
    """
    pytest.importorskip("torch")
    shutil.copytree(MODELS / name, folder, dirs_exist_ok=True)
    said = yaml.safe_load((folder / file).read_text())
    load = _imported(f"models_{name}_load", folder / "load.py")
    handler: BatchHandler[Any] = importlib.import_module(f"handlers.{said['handler']}").Handler()
    handler.params = build_params(handler.params_type(), {**said["params"], **params})
    source = said["source"]
    sources = source if isinstance(source, dict) else {"model": source}
    try:
        if "prepare" in said:
            _named(load, said["prepare"])(folder)
        modules = {part: _named(load, function)() for part, function in sources.items()}
        models = {part: TorchModel(module.eval(), handler, 1, None) for part, module in modules.items()}
        handler.open(handler.params, folder, models, batch_size=8)
    except ModuleNotFoundError as error:
        pytest.skip(str(error))
    return handler, load


def _named(load: ModuleType, function: str) -> Any:
    return getattr(load, function.partition(":")[2])


def _imported(name: str, file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
