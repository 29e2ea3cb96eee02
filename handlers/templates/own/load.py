"""The module. Put your own in its place."""

import torch


class Weighted(torch.nn.Module):
    """Takes `a` and `b`, float32 of shape (n,), as the handler names them, and gives `sum`."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.ones(2))

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": self.weights[0] * a + self.weights[1] * b}


def build(pretrained: bool = True) -> torch.nn.Module:
    """Build the module with its weights; with `pretrained=False`, the same module without."""
    module = Weighted()
    if pretrained:
        module.load_state_dict({"weights": torch.tensor([2.0, 3.0])})
    return module
