"""The module: which of three colours a picture has most of. Put your own in its place."""

import torch


def build(pretrained: bool = True) -> torch.nn.Module:
    """Build the module with its weights; with `pretrained=False`, the same module without."""
    module = torch.nn.Sequential(
        torch.nn.AdaptiveAvgPool2d(1),  # the mean of red, green and blue
        torch.nn.Flatten(),
        torch.nn.Linear(3, 3),  # a score for each label
    )
    if pretrained:
        # Yours come from a file: module.load_state_dict(torch.load(..., weights_only=True)). Or leave them
        # to `torchmar archive --weights FILE`, which takes what training scripts save.
        module[2].load_state_dict({"weight": 4 * torch.eye(3), "bias": torch.zeros(3)})
    return module
