"""Builds the archives: ResNet-18 by torchmar and as in TorchServe's example, and a model that does nothing.

They are built once into a folder that git ignores, and again after their sources have changed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from torchmar import mar
from torchmar.archive import build
from torchmar.errors import ArchiveExists
from torchmar.export import Weights
from torchmar.spec import SPEC_FILE, Serving, load_model

from .photographs import calibration
from .quantise import quantise
from .work import CONFIG, NOOP_ANSWER

ROOT = Path(__file__).resolve().parent.parent
RUNTIMES = {"eager": "1.0", "onnx": "2.0"}
SEED = 0

Progress = Callable[[str], None]

# TorchServe's examples/image_classifier/resnet_18/model.py.
_STOCK_MODEL = """\
from torchvision.models.resnet import BasicBlock, ResNet


class ImageClassifier(ResNet):
    def __init__(self):
        super().__init__(BasicBlock, [2, 2, 2, 2])
"""

_NOOP_HANDLER = f"""\
def handle(data, context):
    return [{NOOP_ANSWER!r}] * len(data or [])
"""


@dataclass(frozen=True)
class Packed:
    """Holds an archive in a model store, and its unpacked folder for servers that take no archives."""

    name: str
    version: str
    mar: Path
    folder: Path


def build_model(
    name: str, runtime: str, store: Path, workers: int, weights: Weights, progress: Progress
) -> Packed:
    """Build a model of models/ for a number of workers with one thread each."""
    source = ROOT / "models" / name
    serving = yaml.safe_load((source / SPEC_FILE).read_text(encoding="utf-8"))["serving"]
    serving |= {"minWorkers": workers, "maxWorkers": workers, "threads": 1}
    number = RUNTIMES[runtime]
    spec = load_model(source, {"version": number, "runtime": runtime, "serving": serving})
    try:
        built = build(spec, store, weights=weights, progress=progress)
    except ArchiveExists:  # built from older code: nobody else uses this store
        built = build(spec, store, weights=weights, force=True, progress=progress)
    return unpacked(built.archive.path, name, number)


def unpacked(archive: Path, name: str, number: str) -> Packed:
    """Unpack an archive beside it, and write its configuration as JSON."""
    folder = archive.parent / "unpacked" / archive.stem
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    mar.extract(archive, folder)
    config = yaml.safe_load((folder / "model-config.yaml").read_text(encoding="utf-8"))
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    return Packed(name, number, archive, folder)


def int8(fp32: Packed, store: Path) -> Packed:
    """Build resnet18_int8: the fp32 archive with a quantised graph."""
    config = json.loads((fp32.folder / CONFIG).read_text("utf-8"))
    artifact = config["handler"]["models"]["model"]["file"]
    target = store / f"resnet18_int8-{fp32.version}.mar"
    made_from = hashlib.sha256(fp32.mar.read_bytes() + Path(quantise.__code__.co_filename).read_bytes())
    made_from.update(version("onnxruntime").encode())
    stamp = store / f"{target.name}.made-from"
    if not (target.exists() and stamp.exists() and stamp.read_text("ascii") == made_from.hexdigest()):
        graph = store / f"{target.stem}.onnx"
        quantise(fp32.folder, fp32.folder / artifact, graph, calibration())
        repacked(fp32, target, "resnet18_int8", files={artifact: graph})
        graph.unlink()
        stamp.write_text(made_from.hexdigest(), encoding="ascii")
    return unpacked(target, "resnet18_int8", fp32.version)


def repacked(
    packed: Packed,
    target: Path,
    name: str,
    *,
    files: Mapping[str, Path] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Copy an archive under another name, with other files and other settings in model-config.yaml.

    Digests, parity and golden answers are left out: they describe the original.
    """
    manifest = json.loads((packed.folder / mar.MANIFEST).read_text("utf-8"))
    manifest["model"]["modelName"] = name
    settings = {**json.loads((packed.folder / CONFIG).read_text("utf-8")), **(config or {})}
    replaced = {mar.MANIFEST, "model-config.yaml", *(files or {})}
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(mar.MANIFEST, json.dumps(manifest))
        archive.writestr("model-config.yaml", yaml.safe_dump(settings))
        for entry, path in (files or {}).items():
            archive.write(path, entry)
        for path in sorted(path for path in packed.folder.rglob("*") if path.is_file()):
            entry = path.relative_to(packed.folder).as_posix()
            if entry not in replaced and entry != CONFIG and not entry.startswith("MAR-INF/"):
                archive.write(path, entry)
    return target


def stock_resnet18(store: Path, python: Path, eager: Packed) -> Path:
    """Pack ResNet-18 as TorchServe's example does, with its own handler and our eager archive's weights.

    https://github.com/pytorch/serve/tree/v0.12.0/examples/image_classifier/resnet_18
    """
    model = store / "model.py"
    model.write_text(_STOCK_MODEL, encoding="utf-8")
    labels = (ROOT / "handlers" / "labels" / "imagenet1k.txt").read_text(encoding="utf-8").splitlines()
    names = store / "index_to_name.json"
    names.write_text(json.dumps({str(i): ["", label] for i, label in enumerate(labels)}), encoding="utf-8")
    state_dict = (
        eager.folder
        / json.loads((eager.folder / CONFIG).read_text("utf-8"))["handler"]["models"]["model"]["file"]
    )
    files = ["--model-file", str(model), "--serialized-file", str(state_dict), "--extra-files", str(names)]
    return with_archiver(python, "resnet-18", store, *files, "--handler", "image_classifier")


def with_archiver(
    python: Path, name: str, folder: Path, *options: str, environment: Mapping[str, str] | None = None
) -> Path:
    """Make NAME.mar in `folder` with the torch-model-archiver beside that interpreter."""
    command = [str(python.parent / "torch-model-archiver"), "--model-name", name, "--version", "1.0"]
    command += ["--export-path", str(folder), "--force", *options]
    subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return folder / f"{name}.mar"


def noop(store: Path, config: dict[str, Any] | None = None) -> Path:
    """Make an archive whose handler answers a constant; `config` is its model-config.yaml."""
    target = store / ("noop.mar" if config is None else "noop-torchmar.mar")
    model: dict[str, Any] = {"modelName": "noop", "modelVersion": "1.0", "handler": "noop.py"}
    if config is not None:
        model["configFile"] = "model-config.yaml"
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"runtime": "python", "model": model}))
        archive.writestr("noop.py", _NOOP_HANDLER)
        if config is not None:
            archive.writestr("model-config.yaml", yaml.safe_dump(config))
    return target


def torchmar_noop_config(workers: int) -> dict[str, Any]:
    """Return the workers and the batching of models/resnet18, for another model under torchmar."""
    text = (ROOT / "models" / "resnet18" / SPEC_FILE).read_text(encoding="utf-8")
    serving = yaml.safe_load(text)["serving"]
    defaults = Serving()
    return {
        "minWorkers": workers,
        "maxWorkers": workers,
        "batchSize": serving.get("batchSize", defaults.batch_size),
        "maxBatchDelay": serving.get("maxBatchDelay", defaults.max_batch_delay),
        "responseTimeout": defaults.response_timeout,
        "jobQueueSize": serving.get("jobQueueSize", defaults.job_queue_size),
    }
