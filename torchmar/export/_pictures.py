"""What a module is asked: pictures, as torchvision prepares them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ExportError
from ..spec import ModelSource

if TYPE_CHECKING:
    import torch


def reference_transform(source: ModelSource) -> Callable[[Any], torch.Tensor]:
    """Torchvision's own preprocessing, that the handler's must equal: PIL image → float32 (3, H, W)."""
    resize_and_crop, normalize = reference_steps(source)
    return lambda picture: normalize(resize_and_crop(picture))


def reference_steps(source: ModelSource) -> tuple[Callable[[Any], Any], Callable[[Any], torch.Tensor]]:
    """PIL image → PIL image of the model's size; and that → float32 (3, H, W)."""
    from torchvision import transforms

    image = source.spec.input.image
    size = image.size if isinstance(image.size, int) else list(image.size)
    mode = transforms.InterpolationMode(image.interpolation)
    steps: list[Any] = [transforms.Resize(size, interpolation=mode)]
    if image.crop is not None:
        steps.append(transforms.CenterCrop(list(image.crop)))
    normalize = transforms.Compose([transforms.ToTensor(), transforms.Normalize(image.mean, image.std)])
    return transforms.Compose(steps), normalize


def seeded_pictures(source: ModelSource, seed: int) -> Iterator[Any]:
    """Pictures of noise, of the size that the model takes."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(seed)
    for _ in range(4):
        yield Image.fromarray(generator.integers(0, 256, (*_input_size(source), 3), dtype=np.uint8))


def pixels_of(picture: Any) -> torch.Tensor:
    """uint8 (height, width, 3)."""
    import numpy as np
    import torch

    return torch.from_numpy(np.array(picture))


def open_rgb(path: Path) -> Any:
    """A golden picture, as PIL image. Raises ExportError."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except Exception as error:  # Pillow's decoders raise OSError, ValueError, SyntaxError, struct.error, …
        raise ExportError(f"golden request {path}: {error}") from None


def _input_size(source: ModelSource) -> tuple[int, int]:
    image = source.spec.input.image
    if image.crop is not None:
        return image.crop
    assert not isinstance(image.size, int)  # the spec has seen to it
    return image.size
