"""How far diabetes progressed within a year: a small network, trained here on scikit-learn's own table.

442 patients (Efron, Hastie, Johnstone and Tibshirani, Least Angle Regression, 2004); training takes a second.
"""

import numpy as np
import torch

SEED = 0


class Regressor(torch.nn.Module):
    """Takes the columns in their own units: their scale, and the target's, are a part of the graph."""

    def __init__(self, columns: int = 10) -> None:
        super().__init__()
        for name, size in (("mean", columns), ("std", columns), ("target_mean", 1), ("target_std", 1)):
            self.register_buffer(name, torch.ones(size))
        self.linear = torch.nn.Linear(columns, 1)
        self.hidden = torch.nn.Sequential(
            torch.nn.Linear(columns, 16), torch.nn.Tanh(), torch.nn.Dropout(0.3), torch.nn.Linear(16, 1)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        scaled = (features - self.mean) / self.std
        return (self.linear(scaled) + self.hidden(scaled)) * self.target_std + self.target_mean


def train(features: np.ndarray, targets: np.ndarray) -> Regressor:
    """The same table gives the same weights."""
    rows = torch.from_numpy(features.astype(np.float32))
    wanted = torch.from_numpy(targets.astype(np.float32))[:, None]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = Regressor(rows.shape[1])
        model.mean[:], model.std[:] = rows.mean(0), rows.std(0)
        model.target_mean[:], model.target_std[:] = wanted.mean(0), wanted.std(0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
        for _ in range(300):
            optimizer.zero_grad()
            loss = (((model(rows) - wanted) / model.target_std) ** 2).mean()
            loss.backward()
            optimizer.step()
    return model.eval()


def diabetes(pretrained: bool = True) -> torch.nn.Module:
    return train(*_table()) if pretrained else Regressor()


def evaluate() -> dict[str, float]:
    """R² and the mean absolute error for each fifth of the table, by a network trained on the rest."""
    features, targets = _table()
    fold = np.random.default_rng(SEED).permutation(len(targets)) % 5
    found = np.zeros(len(targets))
    for one in range(5):
        model = train(features[fold != one], targets[fold != one])
        with torch.inference_mode():
            found[fold == one] = model(torch.from_numpy(features[fold == one].astype(np.float32)))[:, 0]
    errors = targets - found
    return {"r2": 1 - float(errors.var() / targets.var()), "mean_absolute_error": float(abs(errors).mean())}


def _table() -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import load_diabetes
    except ImportError:
        raise ImportError("pip install scikit-learn: its table is what this network is trained on") from None
    table = load_diabetes(scaled=False)
    return table.data, table.target
