"""Measures the memory of a large model: servers with 1, 2 and 4 workers of VGG-16.

The state dict has 553 MB; random weights are as large as trained ones.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchmar.archive import build
from torchmar.errors import TorchmarError
from torchmar.export import Weights
from torchmar.measure import memory
from torchmar.spec import load_model

from . import archives
from .packing import state_dict
from .systems import Failed
from .systems.base import first_answer
from .systems.torchserve import OURS, Installation, clients, endpoint

WORKERS = (1, 2, 4)
_STOCK_MODEL = """\
from torchvision.models.vgg import VGG, cfgs, make_layers


class ImageClassifier(VGG):
    def __init__(self):
        super().__init__(make_layers(cfgs["D"]))
"""


@dataclass(frozen=True)
class Large:
    """Holds VGG-16 in three archives."""

    eager: archives.Packed
    onnx: archives.Packed
    stock: Path


def pack(store: Path, stock_python: Path) -> Large:
    """Build the three archives in their own folder."""
    folder = store / "vgg16"
    folder.mkdir(exist_ok=True)
    weights = state_dict(store)
    built = {}
    serving = {"minWorkers": 1, "maxWorkers": max(WORKERS), "threads": 1, "responseTimeout": 60}
    for runtime, version in archives.RUNTIMES.items():
        changes = {"version": version, "runtime": runtime, "serving": serving}
        source = load_model(archives.ROOT / "models" / "vgg16", changes)
        path = build(source, folder, weights=Weights(str(weights)), force=True).archive.path
        built[runtime] = archives.Packed("vgg16", version, path, path)
    return Large(built["eager"], built["onnx"], _with_archiver(folder, stock_python, weights))


def _with_archiver(folder: Path, python: Path, weights: Path) -> Path:
    """Pack as stock does: a class, a state dict and TorchServe's own image_classifier."""
    model = folder / "model.py"
    model.write_text(_STOCK_MODEL, encoding="utf-8")
    options = ["--model-file", str(model), "--serialized-file", str(weights), "--handler", "image_classifier"]
    return archives.with_archiver(python, "vgg-16", folder, *options, "--archive-format", "zip-store")


def held(large: Large, stock: Installation, picture: Path) -> list[dict[str, Any]]:
    """Measure the PSS of each server with 1, 2 and 4 workers, in MB (10^6 bytes), after some answers."""
    plans = [
        ("stock", stock, large.stock, "vgg-16", "1.0"),
        ("torchmar-eager", OURS, large.eager.mar, "vgg16", large.eager.version),
        ("torchmar-onnx", OURS, large.onnx.mar, "vgg16", large.onnx.version),
    ]
    return [_held(*plan, picture) for plan in plans]


def _held(
    name: str, installation: Installation, archive: Path, model: str, version: str, picture: Path
) -> dict[str, Any]:
    found: dict[str, float] = {}
    failure = None
    content = picture.read_bytes()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="torchmar-bench-", ignore_cleanup_errors=True) as temporary,
            installation.running(Path(temporary), archive.parent, {"enable_model_api": "true"}) as server,
            clients(server) as connected,
        ):
            connected.management.register(archive.name, initial_workers=1)
            for workers in WORKERS:
                connected.management.scale(model, workers, version)
                connected.management.wait_until_ready(model, version, workers=workers)
                _ask_all(workers, server, model, content)
                found[str(workers)] = memory.tree_mb([server.pid])
    except (Failed, TorchmarError) as error:
        failure = str(error)
    return {"name": name, "pss_mb": found, "failure": failure}


def _ask_all(workers: int, server: Any, model: str, content: bytes) -> None:
    """Send several requests at once, so that every worker answers: none can be addressed alone."""
    from concurrent.futures import ThreadPoolExecutor

    where = endpoint(server, model)
    with ThreadPoolExecutor(2 * workers) as pool:
        for _ in range(3):
            deadline = time.perf_counter() + 120
            asked: Sequence[Any] = [
                pool.submit(first_answer, where, content, deadline) for _ in range(2 * workers)
            ]
            for one in asked:
                with contextlib.suppress(TimeoutError):
                    one.result(timeout=130)
