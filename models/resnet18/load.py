"""ResNet18 of torchvision, with its IMAGENET1K_V1 weights through torchvision's own loader."""

import torch


def resnet18(pretrained: bool = True) -> torch.nn.Module:
    from torchvision.models import ResNet18_Weights, resnet18

    return resnet18(weights=ResNet18_Weights.IMAGENET1K_V1 if pretrained else None)
