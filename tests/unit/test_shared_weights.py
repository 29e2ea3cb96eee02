"""The optimised form of an ONNX model that the workers of a machine share: made once, private, cleaned up."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from handlers.image_classifier import Handler
from handlers.runtimes import open_models
from handlers.worker import shared_weights
from handlers.worker.shared_weights import optimized_model
from torchmar import mar
from torchmar.files import remove_tree

from .nested import nest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def artifact(tiny_onnx: Path, tmp_path: Path) -> Path:
    """The tiny model's .onnx, unpacked."""
    mar.extract(tiny_onnx, tmp_path / "archive")
    return tmp_path / "archive" / "model.onnx"


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """Where caches are kept."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder


def caches(temporary: Path) -> list[Path]:
    return [about.parent for about in temporary.glob(f"*/*/{shared_weights.ABOUT}")]


def test_it_answers_as_the_model_does(artifact: Path, temporary: Path) -> None:
    """The same numbers, with optimisation off while loading."""
    model = optimized_model(artifact, temporary)
    assert model is not None
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    providers = ["CPUExecutionProvider"]
    expected = onnxruntime.InferenceSession(str(artifact), providers=providers).run(None, {"pixels": pixels})
    found = onnxruntime.InferenceSession(str(model), options, providers=providers).run(
        None, {"pixels": pixels}
    )
    assert np.allclose(found[0], expected[0], atol=1e-6)


def test_it_is_made_once(artifact: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second worker takes what the first one made; a change of the file makes another one."""
    first = optimized_model(artifact, temporary)
    with monkeypatch.context() as patch:
        patch.setattr(shared_weights, "_make", lambda *_: pytest.fail("made twice"))
        assert optimized_model(artifact, temporary) == first
    os.utime(artifact, ns=(1, 1))
    assert optimized_model(artifact, temporary) != first


def test_workers_that_start_together_make_it_once(artifact: Path, temporary: Path) -> None:
    """Four processes at the same time: one makes it, the others wait, and all load the same file."""
    code = "import sys; from pathlib import Path; from handlers.worker.shared_weights import optimized_model;"
    code += "print(optimized_model(Path(sys.argv[1]), Path(sys.argv[2])))"
    command = [sys.executable, "-c", code, str(artifact), str(temporary)]
    workers = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    answers = {worker.communicate(timeout=60)[0] for worker in workers}
    assert len(answers) == 1
    assert answers.pop().strip().endswith("model.onnx")
    assert len(caches(temporary)) == 1


def test_what_belongs_to_a_removed_archive_is_removed(
    artifact: Path, temporary: Path, tmp_path: Path
) -> None:
    """TorchServe removes what it unpacked when a model is unregistered; the next cache made follows. Nor does
    the cache of a file stay that is another by now.
    """
    old = tmp_path / "old.onnx"
    shutil.copyfile(artifact, old)
    optimized_model(old, temporary)
    optimized_model(artifact, temporary)
    assert len(caches(temporary)) == 2
    old.unlink()
    os.utime(artifact, ns=(1, 1))
    optimized_model(artifact, temporary)
    sources = [
        json.loads((folder / shared_weights.ABOUT).read_text())["source"] for folder in caches(temporary)
    ]
    assert sources == [str(artifact)]


def test_one_that_was_killed_while_making_it_is_no_obstacle(artifact: Path, temporary: Path) -> None:
    """What it left is replaced."""
    model = optimized_model(artifact, temporary)
    assert model is not None
    model.parent.rename(model.parent.with_suffix(".making"))
    assert optimized_model(artifact, temporary) == model
    assert [path.name for path in model.parent.parent.iterdir() if path.suffix == ".making"] == []


@pytest.mark.parametrize(
    "damage", ["weights gone", "weights cut", "model gone", "about gone", "about damaged"]
)
def test_a_damaged_one_is_made_anew(artifact: Path, temporary: Path, damage: str) -> None:
    """Cleaners of temporary folders take single files; no worker must die of that, or compute with less."""
    model = optimized_model(artifact, temporary)
    assert model is not None
    weights, about = model.with_name(f"{model.name}.data"), model.with_name(shared_weights.ABOUT)
    size = weights.stat().st_size
    if damage == "weights cut":
        os.truncate(weights, size // 2)
    elif damage == "about damaged":
        about.write_text("[]")
    else:
        {"weights gone": weights, "model gone": model, "about gone": about}[damage].unlink()
    assert optimized_model(artifact, temporary) == model
    assert weights.stat().st_size == size
    assert len(caches(temporary)) == 1


def scores_of(artifact: Path, workers: int) -> tuple[int, ...]:
    """The shape of what it gives for two pictures."""
    models = {"model": {"file": artifact.name, "format": "onnx", "prepared": True}}
    model = open_models({"models": models, "workers": workers}, artifact.parent, None, Handler())["model"]
    return model({"pixels": np.zeros((2, 32, 32, 3), np.uint8)})["scores"].shape


def test_one_that_does_not_load_is_left(
    artifact: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker answers from the archive's own file, optimised as usual."""
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    model = optimized_model(artifact)
    assert model is not None
    model.write_bytes(bytes(model.stat().st_size))
    assert scores_of(artifact, 2) == (2, 10)
    assert "does not load" in caplog.text


def test_what_a_killed_worker_left_of_another_model_is_removed(artifact: Path, temporary: Path) -> None:
    """It has the size of its weights."""
    model = optimized_model(artifact, temporary)
    assert model is not None
    left = model.parent.with_name("another.making")
    left.mkdir()
    os.utime(artifact, ns=(1, 1))
    assert optimized_model(artifact, temporary) != model
    assert not left.exists()


def test_nothing_that_lies_there_stops_a_worker(artifact: Path, temporary: Path, tmp_path: Path) -> None:
    """Folders nested deeper than Python recurses, links, JSON that is nested too deep."""
    model = optimized_model(artifact, temporary)
    assert model is not None
    folder = model.parent.parent
    (folder / "deep").mkdir()
    nest(folder / "deep", 1_500)
    others = tmp_path / "others"
    others.mkdir()
    (others / "file").touch()
    (folder / "link").symlink_to(others)
    (folder / "odd").mkdir()
    (folder / "odd" / shared_weights.ABOUT).write_text("[" * 100_000)
    os.utime(artifact, ns=(1, 1))
    try:
        assert optimized_model(artifact, temporary) is not None
    finally:
        remove_tree(folder / "deep")
    assert (others / "file").exists()
    assert not (folder / "link").is_symlink()
    assert not (folder / "odd").exists()


def _open_to_others(folder: Path) -> None:
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)


def _a_link(folder: Path) -> None:
    elsewhere = folder.with_name("elsewhere")
    elsewhere.mkdir(mode=0o700)
    folder.symlink_to(elsewhere)


@pytest.mark.parametrize("prepare", [_open_to_others, _a_link])
def test_a_folder_that_others_could_have_filled_is_not_used(
    artifact: Path, temporary: Path, caplog: pytest.LogCaptureFixture, prepare: Any
) -> None:
    """A model put there by another user would be loaded as ours; so nothing is shared, and they say so."""
    prepare(temporary / f"torchmar-onnxruntime-{os.getuid()}")
    assert optimized_model(artifact, temporary) is None
    assert "not private to this user" in caplog.text


def test_a_full_disk_stops_no_worker(
    artifact: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It loads the model as it is in the archive."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shared_weights, "_make", full)
    assert optimized_model(artifact, temporary) is None
    assert "No space left" in caplog.text
    assert caches(temporary) == []


@pytest.mark.parametrize(("workers", "made"), [(1, 0), (2, 1)])
def test_only_several_workers_share(
    artifact: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, workers: int, made: int
) -> None:
    """For one it would cost time and disk, and save nothing."""
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    assert scores_of(artifact, workers) == (2, 10)
    assert len(caches(temporary)) == made
