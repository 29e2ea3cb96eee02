"""Photographs out of packages with a subject, whole and cropped, to compress and to compare models with."""

import importlib.util
import random
from pathlib import Path

DATA = "data"
CROPS = 15
"""Of each photograph; its whole is one more."""

# The box around each subject: left, top, right and bottom, as shares of the picture's width and height.
SUBJECTS = {
    "matplotlib": {"mpl-data/sample_data/grace_hopper.jpg": (0.15, 0.03, 0.97, 0.8)},
    "skimage": {
        "data/astronaut.png": (0.2, 0.02, 0.8, 0.9),
        "data/camera.png": (0.15, 0.1, 0.8, 0.98),
        "data/chelsea.png": (0.2, 0.1, 0.85, 0.95),
        "data/coffee.png": (0.14, 0.03, 0.82, 0.97),
        "data/motorcycle_left.png": (0.12, 0.05, 0.97, 0.92),
        "data/rocket.jpg": (0.4, 0.25, 0.6, 0.98),
    },
    "sklearn": {
        "datasets/images/china.jpg": (0.1, 0.05, 0.66, 0.88),
        "datasets/images/flower.jpg": (0.26, 0.18, 0.7, 0.85),
    },
}
INSTALL = {"matplotlib": "matplotlib", "skimage": "scikit-image", "sklearn": "scikit-learn"}


def fetch_photographs(folder: Path, crops: int = CROPS) -> None:
    """Write data/NAME-NUMBER.jpg: 9 photographs, each whole and in 15 crops that hold its whole subject.

    The crops are the same each time. Raises ModuleNotFoundError, with what to install.
    """
    from PIL import Image

    if (folder / DATA).is_dir():
        return
    begun = folder / f".{DATA}"
    begun.mkdir(exist_ok=True)
    chance = random.Random(0)  # noqa: S311 (no secret)
    for package, subjects in SUBJECTS.items():
        for file, subject in subjects.items():
            with Image.open(_folder(package) / file) as opened:
                picture = opened.convert("RGB")
            boxes = [(0.0, 0.0, 1.0, 1.0), *(_around(subject, chance) for _ in range(crops))]
            for number, (left, top, right, bottom) in enumerate(boxes):
                wide, high = picture.size
                edges = (left * wide, top * high, right * wide, bottom * high)
                crop = picture.crop(tuple(map(round, edges)))
                crop.save(begun / f"{Path(file).stem}-{number:02}.jpg", quality=95)
    begun.rename(folder / DATA)


def fetch_whole(folder: Path) -> None:
    """Write data/NAME-00.jpg: the 9 photographs alone, for a model that is slow."""
    fetch_photographs(folder, 0)


def _around(subject: tuple[float, float, float, float], chance: random.Random) -> tuple[float, ...]:
    """A box that holds the subject's: each side lies anywhere between the subject and the picture's edge."""
    left, top, right, bottom = subject
    return (
        chance.uniform(0, left),
        chance.uniform(0, top),
        chance.uniform(right, 1),
        chance.uniform(bottom, 1),
    )


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"pip install {INSTALL[package]}: it carries photographs")
    return Path(spec.origin).parent
