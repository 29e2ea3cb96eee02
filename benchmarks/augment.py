"""Measures what augmentation gains: digits that are moved or turned, told by a CNN trained with and without.

    .venv/bin/python -m benchmarks.augment [--augment rotate=20,shift=0.15] [--epochs 30]

The network of models/digits learns the same pictures from the same random weights. It is asked for those that
models/digits leaves out: as they are, moved by a pixel both ways, and turned by up to 20 degrees.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

from torchmar.dataset import read_dataset
from torchmar.export import Weights, load_module, prepared
from torchmar.finetune import TrainingConfig, finetune
from torchmar.measure.statistics import bootstrap_means, interval
from torchmar.spec import load_model

MODEL = Path(__file__).resolve().parent.parent / "models" / "digits"


def main() -> None:
    """Print the share of right answers, each with its 95 % bootstrap interval."""
    import torch

    options = argparse.ArgumentParser()
    options.add_argument("--augment", default="rotate=20,shift=0.15")
    options.add_argument("--epochs", type=int, default=30)
    given = options.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        source = prepared(load_model(shutil.copytree(MODEL, Path(temporary) / "digits")))
        data = source.directory / "data"
        asked = pictures(data / "test")
        for augment in ("", given.augment):
            settings = TrainingConfig(
                epochs=given.epochs, patience=given.epochs, learning_rate=3e-3, augment=augment
            )
            file = Path(temporary) / "tuned.pt"
            found = finetune(source, read_dataset(data / "train"), file, settings, weights=Weights("random"))
            module = load_module(source, Weights(str(file)))
            print(f"{augment or 'none'}: epoch {found.best}, {found.seconds:.0f} s")
            for name, (shown, labels) in asked.items():
                inputs = torch.tensor(shown)[:, None].expand(-1, 3, -1, -1) / 127.5 - 1
                right = (module(inputs).argmax(1) == torch.tensor(labels)).double().tolist()
                low, high = interval(bootstrap_means(right), 0.95)
                print(f"  {name}: {sum(right) / len(right):.3f} [{low:.3f}, {high:.3f}]")


def pictures(folder: Path) -> dict[str, tuple[list[Any], list[int]]]:
    """Return the pictures of a folder in three forms, as lists of 8 rows of 8 greys, with their labels."""
    import numpy as np
    from PIL import Image

    generator = random.Random(0)  # noqa: S311 (no secret)
    files = sorted(folder.glob("*/*.png"))
    found: dict[str, list[Any]] = {"as they are": [], "moved": [], "turned": []}
    for file in files:
        with Image.open(file) as picture:
            way = generator.choice([-1, 1]), generator.choice([-1, 1])
            turned = picture.rotate(generator.uniform(-20, 20), Image.Resampling.BILINEAR)
            moved = picture.transform(picture.size, Image.Transform.AFFINE, (1, 0, way[0], 0, 1, way[1]))
            for form, each in zip(found, (picture, moved, turned), strict=True):
                found[form].append(np.asarray(each).tolist())
    labels = [int(file.parent.name) for file in files]
    return {form: (each, labels) for form, each in found.items()}


if __name__ == "__main__":
    main()
