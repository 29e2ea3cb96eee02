"""Measures pictures that the exported graph resizes (`resize_in: graph`) against those that Pillow resizes.

    .venv/bin/python -m benchmarks.resize

Photographs of three sizes go through Resize(256) and CenterCrop(224) by Pillow, and by an ONNX graph of
that alone. Differences are in levels of 255. Times are those of one processor, medians of 20, both in turn.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from handlers.images.transform import ImageTransform, Interpolation

REPEATS = 20
WIDTHS = (1600, 640, 200)


def main() -> None:
    """Print a row for each kind of interpolation and width."""
    import numpy as np

    print(f"{'interpolation':<13} {'picture':>11} {'mean':>6} {'most':>6} {'Pillow ms':>10} {'graph ms':>9}")
    interpolations: tuple[Interpolation, ...] = ("bilinear", "bicubic")
    for interpolation in interpolations:
        transform = ImageTransform(256, (224, 224), interpolation)
        graph = _exported(interpolation)
        for picture in pictures():
            pixels = np.asarray(picture)[None]
            expected = transform(picture).astype(np.float32)
            apart = np.abs(graph(pixels)[0] - expected)
            by_pillow, by_graph = _milliseconds(partial(transform, picture), partial(graph, pixels))
            size = f"{picture.width} × {picture.height}"
            print(
                f"{interpolation:<13} {size:>11} {apart.mean():6.2f} {apart.max():6.2f} "
                f"{by_pillow:10.1f} {by_graph:9.1f}"
            )


def pictures() -> Iterator[Any]:
    """Yield scikit-learn's two photographs and matplotlib's, one of each width."""
    import matplotlib.cbook
    from PIL import Image
    from sklearn.datasets import load_sample_image

    photographs = [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    file = str(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
    photographs.append(Image.open(file).convert("RGB"))
    for width, photograph in zip(WIDTHS, photographs, strict=True):
        height = round(photograph.height * width / photograph.width)
        yield photograph.resize((width, height), Image.Resampling.LANCZOS)


def _exported(interpolation: Interpolation) -> Callable[[Any], Any]:
    """Return ImageTransform as an ONNX graph with free axes."""
    import onnxruntime
    import torch

    class Resize(torch.nn.Module):  # type: ignore[misc]
        def forward(self, pixels: Any) -> Any:
            return ImageTransform(256, (224, 224), interpolation).of_tensors(pixels)

    free = torch.export.Dim.DYNAMIC
    example = torch.zeros(2, 300, 200, 3, dtype=torch.uint8)
    program = torch.onnx.export(
        Resize(), (example,), dynamo=True, dynamic_shapes=({0: free, 1: free, 2: free},), verbose=False
    )
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    [name] = [one.name for one in session.get_inputs()]
    return lambda pixels: session.run(None, {name: pixels})[0]


def _milliseconds(*each: Callable[[], Any]) -> list[float]:
    found: list[list[float]] = [[] for _ in each]
    for _ in range(REPEATS):
        for function, times in zip(each, found, strict=True):
            began = time.process_time()
            function()
            times.append((time.process_time() - began) * 1000)
    return [statistics.median(times) for times in found]


if __name__ == "__main__":
    main()
