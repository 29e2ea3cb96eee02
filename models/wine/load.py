"""Which of three cultivars a wine is of: a small network, trained here on scikit-learn's own table.

178 wines (UCI, donated by Stefan Aeberhard, 1992); training takes a second.
"""

import numpy as np
import torch

SEED = 0


class Classifier(torch.nn.Module):
    """Takes the columns in their own units: their scale is a part of the graph."""

    def __init__(self, columns: int = 13, classes: int = 3) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(columns))
        self.register_buffer("std", torch.ones(columns))
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(columns, 16), torch.nn.ReLU(), torch.nn.Linear(16, classes)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.layers((features - self.mean) / self.std)


def train(features: np.ndarray, classes: np.ndarray) -> Classifier:
    """The same table gives the same weights."""
    rows, wanted = torch.from_numpy(features.astype(np.float32)), torch.from_numpy(classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = Classifier(rows.shape[1])
        model.mean[:], model.std[:] = rows.mean(0), rows.std(0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
        for _ in range(200):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(rows), wanted).backward()
            optimizer.step()
    return model.eval()


def wine(pretrained: bool = True) -> torch.nn.Module:
    return train(*_table()) if pretrained else Classifier()


def evaluate() -> dict[str, float]:
    """How many of the wines are told right, each fifth by a network trained on the rest."""
    features, classes = _table()
    fold = np.random.default_rng(SEED).permutation(len(classes)) % 5
    right = 0
    for one in range(5):
        model = train(features[fold != one], classes[fold != one])
        with torch.inference_mode():
            found = model(torch.from_numpy(features[fold == one].astype(np.float32))).argmax(1).numpy()
        right += int((found == classes[fold == one]).sum())
    return {"accuracy": right / len(classes)}


def _table() -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import load_wine
    except ImportError:
        raise ImportError("pip install scikit-learn: its table is what this network is trained on") from None
    table = load_wine()
    return table.data, table.target.astype(np.int64)
