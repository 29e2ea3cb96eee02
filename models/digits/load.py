"""Which digit a small picture shows: a CNN, trained here on the digits that scikit-learn carries.

1,797 pictures of 8×8 greys (UCI, Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, 1998).
Every fifth is left out of the training, to test with; training takes seconds.
"""

from pathlib import Path

import numpy as np
import torch

SEED = 0
EPOCHS = 12
DATA = "data"


class Classifier(torch.nn.Module):
    """Takes pictures as they are normalised, (n, 3, 8, 8), whose three channels are alike."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
            torch.nn.Conv2d(16, 64, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(64, 64, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
            torch.nn.Flatten(),
            torch.nn.Linear(256, 10),
        )

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.layers(pictures)


def digits(pretrained: bool = True) -> torch.nn.Module:
    return _trained() if pretrained else Classifier()


def _trained() -> Classifier:
    """The same pictures give the same weights; with one thread, sums are rounded alike everywhere."""
    pictures, labels = _pictures()
    train = np.arange(len(labels)) % 5 != 0
    inputs, wanted = _inputs(pictures[train]), torch.from_numpy(labels[train])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            model = Classifier()
            optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
            for _ in range(EPOCHS):
                for batch in torch.randperm(len(wanted)).split(64):
                    optimizer.zero_grad()
                    torch.nn.functional.cross_entropy(model(inputs[batch]), wanted[batch]).backward()
                    optimizer.step()
    finally:
        torch.set_num_threads(threads)
    return model.eval()


def evaluate() -> dict[str, float]:
    """How many of the pictures that it was not trained with are told right."""
    pictures, labels = _pictures()
    test = np.arange(len(labels)) % 5 == 0
    model = digits()
    with torch.inference_mode():
        found = model(_inputs(pictures[test])).argmax(1).numpy()
    return {"accuracy": float((found == labels[test]).mean())}


def fetch_data(folder: Path) -> None:
    """Write the pictures as PNG: data/test and data/train with a folder for each digit."""
    from PIL import Image

    if (folder / DATA).is_dir():
        return
    begun = folder / f".{DATA}"
    for number, (picture, label) in enumerate(zip(*_pictures(), strict=True)):
        there = begun / ("test" if number % 5 == 0 else "train") / str(label)
        there.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(there / f"{number:04}.png")
    begun.rename(folder / DATA)


def _inputs(pictures: np.ndarray) -> torch.Tensor:
    """As the handler normalises them, with a mean and a deviation of 0.5."""
    grey = torch.from_numpy(pictures.astype(np.float32) / 255)
    return ((grey - 0.5) / 0.5)[:, None].expand(-1, 3, -1, -1)


def _pictures() -> tuple[np.ndarray, np.ndarray]:
    """The pictures, uint8 of shape (n, 8, 8), and the digit on each; their greys are from 0 to 16."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ImportError(
            "pip install scikit-learn: its digits are what this network is trained on"
        ) from None
    found = load_digits()
    return (found.images * (255 / 16)).astype(np.uint8), found.target.astype(np.int64)
