"""Change what a module is trained on at random: pictures by Kornia, anything by a function of its folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import DatasetError, ExportError
from ..export import function_of
from ..failures import explained
from ..handler_code import FAILURES, ModelCode
from ..spec import ModelSource, is_function, picture_augmentations

Batch = dict[str, Any]
Augment = Callable[[Batch], Batch]
"""Takes a batch as the handler collates it, tensors by name on the module's device, and returns one of the
same names. It draws from torch's generators, which each epoch seeds."""


def unchanged(batch: Batch) -> Batch:
    """Return the batch itself."""
    return batch


def augmentation(augment: str, source: ModelSource, code: ModelCode) -> Augment:
    """Return what a TrainingConfig's `augment` names. Raises DatasetError, ExportError."""
    if not augment:
        return unchanged
    if is_function(augment):
        return _own(augment, source, code)
    try:
        return _of_pictures(picture_augmentations(augment))
    except ValueError as error:
        raise DatasetError(f"augment: {error}") from None


def _own(augment: str, source: ModelSource, code: ModelCode) -> Augment:
    with code.running():
        function = function_of(source, augment, "augment")

    def apply(batch: Batch) -> Batch:
        try:
            found = function(dict(batch))
        except FAILURES as error:
            why = explained(source.directory, error, source.spec.requirements)
            raise ExportError(f"{augment}: {why}") from error
        if not isinstance(found, Mapping) or found.keys() != batch.keys():
            got = ", ".join(map(str, found)) if isinstance(found, Mapping) else type(found).__name__
            names = ", ".join(batch)
            raise ExportError(
                f"{augment}: return a dict of tensors named {names}, as it was given: found {got}"
            )
        return dict(found)

    return apply


def _of_pictures(wanted: Mapping[str, float]) -> Augment:
    """Return what changes each uint8 array of shape (n, height, width, 3), every picture in its own way."""
    import torch

    try:
        import kornia.augmentation
    except ModuleNotFoundError:
        raise DatasetError(
            "augmenting pictures needs Kornia: pip install 'torchmar[augment]'; or name a function of yours"
        ) from None
    library = kornia.augmentation

    def changed(pixels: Any) -> Any:
        size = tuple(pixels.shape[1:3])
        pictures = pixels.permute(0, 3, 1, 2).to(torch.float32) / 255
        for name, value in wanted.items():
            pictures = _augmenter(library, name, value, size)(pictures)
        return (pictures.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def apply(batch: Batch) -> Batch:
        return {**batch, **{name: changed(batch[name]) for name in _pictures_in(batch)}}

    return apply


def _pictures_in(batch: Batch) -> list[str]:
    """Return the names of the arrays that are pictures. Raises DatasetError if there is none."""
    found = [
        name
        for name, tensor in batch.items()
        if str(tensor.dtype) == "torch.uint8" and tensor.ndim == 4 and tensor.shape[-1] == 3
    ]
    if not found:
        made = ", ".join(f"{name} {tensor.dtype} {tuple(tensor.shape)}" for name, tensor in batch.items())
        raise DatasetError(
            "augment: name a function of the model's folder, as load:augment: the named ones are for "
            f"pictures, uint8 of shape (n, height, width, 3), and the handler makes {made}"
        )
    return found


def _augmenter(library: Any, name: str, value: float, size: tuple[int, int]) -> Any:
    """Return Kornia's augmentation of a batch, float32 (n, 3, height, width) from 0 to 1.

    What a picture has no pixels for becomes black.
    """
    if name == "flip":
        return library.RandomHorizontalFlip(p=value)
    if name == "rotate":
        return library.RandomRotation(degrees=value, p=1.0)
    if name == "shift":
        return library.RandomAffine(degrees=0.0, translate=(value, value), p=1.0)
    if name == "crop":
        return library.RandomResizedCrop(size, scale=(value, 1.0), cropping_mode="resample", p=1.0)
    if name == "color":
        return library.ColorJitter(value, value, value, 0.0, p=1.0)
    return library.RandomGaussianNoise(0.0, value, p=1.0)
