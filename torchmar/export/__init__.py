"""nn.Module → artifact, and its parity with the module it came from.

torch is imported inside the functions that compute with it, never when this room is imported.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import ExportError
from ..model_files import duplicates
from ..spec import NAMED_LABELS, ModelSource
from ._formats import SUFFIX, export, is_artifact
from ._guest import Guest
from ._inputs import inputs_digest, toolchain
from ._outputs import ends_squashed, require_labels, require_scores, run_module
from ._parity import Parity, accept, classes, compare, copy_code, run_artifact
from ._pictures import open_rgb, pixels_of, reference_steps, reference_transform, seeded_pictures
from ._source import load_module
from ._weights import Weights

__all__ = [
    "SUFFIX",
    "Artifact",
    "Parity",
    "Progress",
    "Weights",
    "build_artifact",
    "copy_code",
    "inputs_digest",
    "load_module",
    "reference_transform",
    "require",
    "toolchain",
]

Progress = Callable[[str], None]
"""Told what is about to be done, in a few words."""


@dataclass(frozen=True)
class Artifact:
    """What a runtime loads. `golden_top1` is the module's own answer for each golden request.

    `file` lies in the folder that it was built into, or is the weights' own: then leave it there. `notes`
    tell what was done that nobody asked for, a sentence each.
    """

    file: Path
    runtime: str
    parity: Parity
    golden_top1: tuple[int, ...]
    notes: tuple[str, ...] = ()


def build_artifact(
    source: ModelSource, weights: Weights, folder: Path, progress: Progress = lambda _: None
) -> Artifact:
    """Load the module, export it into `folder`, and hold the artifact against the module.

    Raises WeightsUnavailable, ExportError, or ParityError where it falls short of `accept`.
    """
    require(source.spec.runtime)
    import torch

    progress("loading the module")
    notes: list[str] = []
    guest = Guest(source.directory)
    module = load_module(source, weights, notes.append, guest)
    pictures = [*seeded_pictures(source, weights.seed)]
    seeded = len(pictures)
    resize_and_crop, normalize = reference_steps(source)
    pictures += [resize_and_crop(open_rgb(path)) for path in source.golden_files()]
    pixels = torch.stack([pixels_of(picture) for picture in pictures])
    inputs = torch.stack([normalize(picture) for picture in pictures])
    squashed = ends_squashed(module, inputs[:2], guest)
    # The source may seed the generator itself: a module that draws from it must not draw the same twice.
    torch.manual_seed(weights.seed)
    expected = run_module(source, module, inputs, guest)
    require_scores(source, expected, squashed=squashed)
    require_labels(source, expected)
    notes += _of_labels(source)
    if source.spec.runtime == "eager":
        notes += _of_data(source)
    progress(f"exporting to {source.spec.runtime}")
    given = weights.file
    if source.spec.runtime == "eager" and given is not None and is_artifact(module, given):
        file = given
    else:
        file = export(source, module, pixels[:2], folder, guest)
    progress("checking parity")
    found = run_artifact(source, file, folder, pixels)
    parity = compare(source, expected, found, golden=len(pictures) - seeded, seed=weights.seed)
    accept(source, parity)
    top1 = tuple(int(index) for index in classes(source, expected[seeded:]))
    return Artifact(file, source.spec.runtime, parity, top1, tuple(notes))


def require(runtime: str) -> None:
    """Raise ExportError where a package is missing that exporting to `runtime` needs."""
    needed = ["torch", "torchvision", *(["onnx", "onnxscript", "onnxruntime"] if runtime == "onnx" else [])]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(
            f"exporting needs {', '.join(missing)}, not installed here: pip install 'torchmar[export]'"
        )


def _of_labels(source: ModelSource) -> list[str]:
    own = source.spec.labels not in NAMED_LABELS
    twice = duplicates(source.labels() or []) if own else []
    listed = ", ".join(twice[:5]) + (f" and {len(twice) - 5} more" if len(twice) > 5 else "")
    return [f"labels: several classes have the same: {listed}"] if twice else []


def _of_data(source: ModelSource) -> list[str]:
    data = [path.relative_to(source.directory).as_posix() for path in source.code_files()]
    data = [name for name in data if not name.endswith(".py") and name != source.spec.labels]
    listed = ", ".join(data[:5]) + (f" and {len(data) - 5} more" if len(data) > 5 else "")
    return [f"packed with its code: {listed}"] if data else []
