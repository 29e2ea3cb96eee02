"""The models under models/: from model.yaml to an answer on a live server."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from torchmar.archive import build
from torchmar.export import Weights
from torchmar.spec import load_model
from torchmar.worker import Request, Worker

from .servers import ROOT, StartServer

TINY = ROOT / "tests" / "models" / "tiny"


@pytest.fixture(scope="session")
def photograph() -> Path:
    """Grace Hopper in uniform, from matplotlib's sample data."""
    from matplotlib import cbook

    return Path(str(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg16", "resnet18"])
def test_torchvision_model_is_exported_to_onnx_and_served(
    name: str, start_server: StartServer, photograph: Path
) -> None:
    """With random weights, as on a machine that cannot reach a hub; the answer is that of the module."""
    live = start_server(timeout=120)
    source = load_model(ROOT / "models" / name)
    built = build(source, live.store, weights=Weights("random", seed=3))
    assert built.archive.parity is not None
    assert built.archive.parity["agreement"] == 1.0
    live.serve(built.archive.path.name)
    answer = live.inference.predict(name, photograph).json()
    assert [row["index"] for row in answer] == _top5(name, photograph)


def _top5(name: str, photograph: Path) -> list[int]:
    """What torchvision's own transforms and the module say."""
    import torch
    from PIL import Image
    from torchvision import transforms

    from torchmar.export import load_module

    source = load_model(ROOT / "models" / name)
    params = source.spec.params
    steps: list[Any] = [transforms.Resize(params["size"])]
    steps += [transforms.CenterCrop(params["crop"])] if "crop" in params else []
    steps += [transforms.ToTensor(), transforms.Normalize(params["mean"], params["std"])]
    module = load_module(source, Weights("random", seed=3))
    with torch.inference_mode(), Image.open(photograph) as image:
        logits = module(transforms.Compose(steps)(image.convert("RGB"))[None])[0]
    return [int(index) for index in logits.topk(5).indices]


@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor compiles with g++")
@pytest.mark.slow
def test_aot_inductor_archive_is_served(start_server: StartServer) -> None:
    """The third runtime: compiled ahead of time, checked for parity, served."""
    live = start_server(timeout=120)
    built = build(load_model(TINY, {"version": "3.0", "runtime": "aoti"}), live.store)
    assert built.archive.config["handler"]["models"]["model"]["file"] == "model.pt2"
    live.serve(built.archive.path.name, "3.0")
    picture = TINY / "golden" / "noise.png"
    with Worker.load(built.archive.path) as worker:
        [here] = worker.predict([Request.body(picture.read_bytes())])
    assert live.inference.predict("tiny", picture).json() == here.json()
