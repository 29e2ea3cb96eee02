"""A model folder, opened in this process: its module behind its handler, and its golden requests."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from handlers.params import build_params
from handlers.runtimes import OnnxModel, TorchModel

MODELS = Path(__file__).resolve().parents[2] / "models"


def spec_of(name: str) -> dict[str, Any]:
    """What model.yaml says."""
    return dict(yaml.safe_load((MODELS / name / "model.yaml").read_text()))


def loading(name: str) -> Any:
    """The module load.py of a model folder."""
    spec = importlib.util.spec_from_file_location(f"{name}_load", MODELS / name / "load.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def opened_folder(name: str, files: Path | None = None, **parts: Any) -> Any:
    """The handler of a model folder, ready: each part a module or an ONNX file, else what `source` builds."""
    spec = spec_of(name)
    handler = importlib.import_module(f"handlers.{spec['handler']}").Handler()
    handler.params = build_params(handler.params_type(), spec["params"])
    parts = parts or _built(loading(name), spec["source"])
    models = {
        part: OnnxModel(module, 1, None, share=False, before=handler.prepare)
        if isinstance(module, Path)
        else TorchModel(module, handler, 1, None)
        for part, module in parts.items()
    }
    handler.open(handler.params, files or MODELS / name, models, batch_size=8)
    return handler


def _built(load: Any, source: str | Mapping[str, str]) -> dict[str, Any]:
    parts = source if isinstance(source, Mapping) else {"model": source}
    return {part: getattr(load, function.partition(":")[2])() for part, function in parts.items()}


def golden(name: str, file: str) -> bytes:
    """A golden request's body."""
    return (MODELS / name / "golden" / file).read_bytes()
