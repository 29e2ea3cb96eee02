"""Augmentation: what its words mean, repeatable from the seed, and never of held-out examples."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.live.servers import ROOT
from tests.needs import needs
from torchmar.dataset import Example
from torchmar.errors import DatasetError, ExportError
from torchmar.export import Weights, load_module
from torchmar.finetune import Trained, TrainingConfig, finetune
from torchmar.finetune._augment import augmentation
from torchmar.handler_code import ModelCode
from torchmar.spec import ModelSource, load_model, picture_augmentations

pytestmark = needs("kornia")

QUICK = TrainingConfig(epochs=3, learning_rate=0.003, augment="rotate=15,shift=0.1,crop=0.9,noise=0.05")

OWN = """
import torch

def augment(batch):
    with open(COUNTED, "a") as file:
        print(len(batch["pixels"]), file=file)
    return {name: tensor.clone() for name, tensor in batch.items()}

def renamed(batch):
    return {"pictures": batch["pixels"]}

def broken(batch):
    return batch["nothing"]
"""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The pictures are so small that several threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def digits() -> tuple[Any, Any]:
    """Pictures of digits, uint8 (n, 8, 8), with what each shows."""
    found = pytest.importorskip("sklearn.datasets").load_digits()
    return (found.images * (255 / 16)).astype(np.uint8), found.target


@pytest.fixture
def source(tmp_path: Path) -> ModelSource:
    """models/digits, with functions of its own that augment."""
    folder = shutil.copytree(ROOT / "models" / "digits", tmp_path / "digits")
    (folder / "own.py").write_text(OWN.replace("COUNTED", repr(str(tmp_path / "counted"))))
    said = yaml.safe_load((folder / "model.yaml").read_text())
    del said["prepare"], said["reference"]
    (folder / "model.yaml").write_text(yaml.safe_dump(said))
    return load_model(folder)


def examples(digits: tuple[Any, Any], count: int) -> list[Example]:
    return [
        Example(f"{number}.png", png(picture), "image/png", str(label))
        for number, (picture, label) in enumerate(zip(*(each[:count] for each in digits), strict=True))
    ]


def png(picture: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def trained(source: ModelSource, asked: list[Example], file: Path, settings: TrainingConfig) -> Trained:
    return finetune(source, asked, file, settings, weights=Weights("random"))


def bytes_of(file: Path) -> list[bytes]:
    return [tensor.numpy().tobytes() for tensor in torch.load(file, weights_only=True).values()]


# -- words --------------------------------------------------------------------------------------


def test_words_are_read_in_their_order() -> None:
    assert picture_augmentations("rotate=15, flip") == {"rotate": 15.0, "flip": 0.5}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("rotat=15", r"did you mean rotate\? \(found 'rotat=15'\)"),
        ("spin", r"write some of flip=PROBABILITY, rotate=DEGREES, .*, or file:function \(found 'spin'\)"),
        ("rotate", r"write rotate=DEGREES, above 0 and at most 180 \(found 'rotate'\)"),
        ("shift=2", r"write shift=SHARE, above 0 and at most 1 \(found 'shift=2'\)"),
        ("noise=nan", r"write noise=SIGMA, above 0 and at most 1 \(found 'noise=nan'\)"),
        ("crop=much", r"write crop=SHARE, .* \(found 'crop=much'\)"),
        ("flip,flip", r"write flip once"),
    ],
)
def test_wrong_words_are_told_with_the_remedy(source: ModelSource, words: str, message: str) -> None:
    """Before anything is loaded."""
    with pytest.raises(DatasetError, match=f"augment: {message}"):
        finetune(source, [Example("0", b"", "image/png", "0")], Path("x"), TrainingConfig(augment=words))


def test_where_kornia_is_missing(source: ModelSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kornia", None)
    with pytest.raises(DatasetError, match=r"needs Kornia: pip install 'torchmar\[augment\]'"):
        augmentation("flip", source, ModelCode(source.directory))


# -- pictures -----------------------------------------------------------------------------------


def augmented(words: str, pictures: Any, source: ModelSource) -> Any:
    """What becomes of a batch of pictures, uint8 (n, height, width, 3)."""
    torch.manual_seed(0)
    apply = augmentation(words, source, ModelCode(source.directory))
    found = apply({"pixels": torch.from_numpy(pictures)})["pixels"]
    assert (found.dtype, found.shape) == (torch.uint8, pictures.shape)
    return found.numpy().astype(int)


@pytest.fixture
def sixteen() -> Any:
    """The same picture 16 times, higher than it is wide: a bright left half."""
    pictures = np.zeros((16, 24, 16, 3), dtype=np.uint8)
    pictures[:, 4:20, 2:8] = 200
    return pictures


def test_each_picture_is_flipped_or_not(source: ModelSource, sixteen: Any) -> None:
    found = augmented("flip", sixteen, source)
    flipped = [bool((one == sixteen[0, :, ::-1]).all()) for one in found]
    assert 0 < sum(flipped) < 16
    assert all((one == sixteen[0]).all() for one, was in zip(found, flipped, strict=True) if not was)


def test_each_picture_is_moved_on_its_own(source: ModelSource, sixteen: Any) -> None:
    """By no more than a tenth of its height and its width; its centre of mass tells by how much."""
    weight = augmented("shift=0.1", sixteen, source)[..., 0]
    rows, columns = np.mgrid[:24, :16]
    moved = [((one * axis).sum() / one.sum()) for one in weight for axis in (rows, columns)]
    from_there = np.abs(np.reshape(moved, (16, 2)) - [11.5, 4.5])
    assert (from_there.max(0) <= [2.4 + 0.1, 1.6 + 0.1]).all()
    assert (from_there.max(0) > [1.2, 0.8]).all()
    assert len({one.tobytes() for one in weight}) == 16


def test_each_picture_is_turned_on_its_own(source: ModelSource, sixteen: Any) -> None:
    """A disc in the middle stays what it is; half a picture does not."""
    rows, columns = np.mgrid[:24, :16]
    disc = np.where(np.hypot(rows - 11.5, columns - 7.5) < 6, 200, 0).astype(np.uint8)
    discs = np.broadcast_to(disc[None, :, :, None], sixteen.shape).copy()
    assert np.abs(augmented("rotate=30", discs, source) - discs).mean() < 6
    found = augmented("rotate=30", sixteen, source)
    assert np.abs(found - sixteen).mean() > 8
    assert len({one.tobytes() for one in found}) == 16


def test_crops_are_larger_and_noise_is_as_strong_as_it_says(source: ModelSource, sixteen: Any) -> None:
    grey = np.full_like(sixteen, 128)
    noise = augmented("noise=0.1", grey, source) - 128
    assert noise.std() == pytest.approx(25.5, rel=0.05)
    assert (augmented("crop=0.5", grey, source) == grey).all()
    assert len({one.tobytes() for one in augmented("crop=0.5", sixteen, source)}) == 16


def test_colours_change_by_no_more_than_their_share(source: ModelSource, sixteen: Any) -> None:
    """Of brightness and contrast each; black stays black, and grey grey."""
    grey = np.full_like(sixteen, 128)
    found = augmented("color=0.2", grey, source)
    assert (found == found[..., :1]).all()
    assert 128 * 0.79 < found.min() < 120
    assert 136 < found.max() < 128 * 1.21


# -- training -----------------------------------------------------------------------------------


class Stop(Exception):
    """Stands for whatever ends a run."""


def test_it_is_repeatable_and_a_resumed_run_equals_an_uninterrupted_one(
    source: ModelSource, digits: tuple[Any, Any], tmp_path: Path
) -> None:
    asked = examples(digits, 150)
    whole = trained(source, asked, tmp_path / "whole.pt", QUICK)

    def stop(text: str) -> None:
        if text.startswith("epoch 2 of"):
            raise Stop

    with pytest.raises(Stop):
        finetune(source, asked, tmp_path / "again.pt", QUICK, weights=Weights("random"), progress=stop)
    torch.rand(7)  # whatever else draws meanwhile changes nothing
    again = trained(source, asked, tmp_path / "again.pt", QUICK)
    assert (whole.resumed, again.resumed) == (0, 2)
    assert again.losses == whole.losses
    assert bytes_of(tmp_path / "again.pt") == bytes_of(tmp_path / "whole.pt")
    trained(source, asked, tmp_path / "other.pt", replace(QUICK, augment=""))
    assert bytes_of(tmp_path / "other.pt") != bytes_of(tmp_path / "whole.pt")


def test_moved_digits_are_told_better(source: ModelSource, digits: tuple[Any, Any], tmp_path: Path) -> None:
    """By far: after the same epochs on the same pictures."""
    pictures, labels = digits
    moved = np.stack([np.roll(one, way, (0, 1)) for one, way in zip(pictures[600:], ways(), strict=False)])
    right = {}
    for words in ("", "shift=0.2"):
        file = tmp_path / f"{words or 'plain'}.pt"
        settings = replace(QUICK, epochs=12, patience=12, augment=words)
        trained(source, examples(digits, 600), file, settings)
        module = load_module(source, Weights(str(file)))
        inputs = (torch.from_numpy(moved / 255).float() - 0.5)[:, None].expand(-1, 3, -1, -1) / 0.5
        with torch.inference_mode():
            right[words] = float((module(inputs).argmax(1).numpy() == labels[600 : 600 + len(moved)]).mean())
    assert right["shift=0.2"] > right[""] + 0.1, right


def ways() -> Iterator[tuple[int, int]]:
    """By a pixel each way, at random."""
    generator = np.random.default_rng(0)
    for _ in range(600):
        yield tuple(generator.choice([-1, 1], 2))


# -- a function of one's own --------------------------------------------------------------------


def test_a_function_of_the_folder_gets_what_is_trained_on_alone(
    source: ModelSource, digits: tuple[Any, Any], tmp_path: Path
) -> None:
    """Every example of each epoch, and none that is held out: 80 of 100."""
    settings = TrainingConfig(epochs=2, augment="own:augment")
    trained(source, examples(digits, 100), tmp_path / "tuned.pt", settings)
    counts = (tmp_path / "counted").read_text().split()
    assert sum(map(int, counts)) == 2 * 80


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("own:nothing", r"own\.py: has no function nothing, which `augment` names"),
        ("nowhere:augment", r"nowhere\.py: .*"),
        (
            "own:renamed",
            r"own:renamed: return a dict of tensors named pixels, .*: found pictures",
        ),
        ("own:broken", r"own:broken: .*KeyError: 'nothing'"),
    ],
)
def test_a_wrong_function_is_told(
    source: ModelSource, digits: tuple[Any, Any], tmp_path: Path, named: str, message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        trained(source, examples(digits, 10), tmp_path / "tuned.pt", TrainingConfig(augment=named))


def test_what_has_no_pictures_needs_a_function(source: ModelSource) -> None:
    apply = augmentation("flip", source, ModelCode(source.directory))
    with pytest.raises(DatasetError, match=r"name a function .* makes ids torch.int64 \(2, 7\)"):
        apply({"ids": torch.zeros(2, 7, dtype=torch.int64)})
