"""VGG16 of torchvision, with its IMAGENET1K_V1 weights through torchvision's own loader."""

import torch


def vgg16(pretrained: bool = True) -> torch.nn.Module:
    from torchvision.models import VGG16_Weights, vgg16

    return vgg16(weights=VGG16_Weights.IMAGENET1K_V1 if pretrained else None)
