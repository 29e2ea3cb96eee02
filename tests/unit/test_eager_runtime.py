"""Eager weights stay where the file is mapped, and the module computes as the one that was trained."""

from __future__ import annotations

import sys
import textwrap
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handlers.image_classifier import Handler, Params
from handlers.runtimes import open_models

PARAMS = Params(size=(4, 4), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)

PLAIN = "return torch.nn.Sequential(torch.nn.Conv2d(3, 2, 2), torch.nn.Flatten(), torch.nn.Linear(18, 3))"
NEEDS_DATA = "w = torch.ones(3); assert w.sum().item() == 3; " + PLAIN
BUFFER = """
    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(48, 3)
            self.register_buffer("scale", torch.full((3,), 2.0), persistent=False)
        def forward(self, x):
            return self.linear(x.flatten(1)) * self.scale
    return Module()
"""
ATTRIBUTES = """
    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(48, 3)
            self.order = torch.tensor([2, 1, 0])
            self.scales = {"all": [torch.full((3,), 2.0)]}
            self.noise = torch.zeros(3).fill_(0.5)
        def forward(self, x):
            return self.linear(x.flatten(1))[:, self.order] * self.scales["all"][0] + self.noise
    return Module()
"""
INITIALISED = """
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3), torch.nn.LayerNorm(3))
    torch.nn.init.trunc_normal_(module[1].weight, std=0.1)
    torch.nn.init.orthogonal_(module[1].weight)
    torch.nn.init.constant_(tensor=module[1].bias, val=1.0)
    return module
"""
TIED = """
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 48), torch.nn.Linear(48, 48))
    module[2].weight = module[1].weight
    return module
"""


@pytest.fixture
def write(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Callable[..., torch.nn.Module]]:
    """An archive's model_source.load with this body of `build`."""

    def written(body: str) -> Callable[..., torch.nn.Module]:
        module = types.ModuleType("model_source.load")
        code = "import torch\ndef build(pretrained=True):\n" + textwrap.indent(textwrap.dedent(body), "    ")
        exec(code, module.__dict__)
        monkeypatch.setitem(sys.modules, "model_source", types.ModuleType("model_source"))
        monkeypatch.setitem(sys.modules, "model_source.load", module)
        build: Callable[..., torch.nn.Module] = module.__dict__["build"]
        return build

    return written


def expected(module: torch.nn.Module) -> Any:
    mean, std = (torch.tensor(each)[:, None, None] for each in (PARAMS.mean, PARAMS.std))
    pixels = torch.from_numpy(PIXELS).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        return module((pixels - mean) / std).numpy()


def mapped_from(file: Path) -> int:
    """Bytes of this process that are mapped from a file."""
    total = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] == str(file):
            start, end = (int(number, 16) for number in fields[0].split("-"))
            total += end - start
    return total


def opened(file: Path) -> Callable[[Any], Any]:
    """Pixels to scores, by the runtime that a worker opens."""
    handler = Handler()
    handler.params = PARAMS
    part = {"file": file.name, "format": "eager", "source": "load:build", "pretrained": True}
    model = open_models({"models": {"model": part}, "threads": 1}, file.parent, None, handler)["model"]
    return lambda pixels: model({"pixels": pixels})["scores"]


BODIES = {
    "plain": PLAIN,
    "needs data": NEEDS_DATA,
    "computed buffer": BUFFER,
    "tensors of its own": ATTRIBUTES,
    "initialised": INITIALISED,
    "tied": TIED,
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_every_module_answers_as_it_should(write: Any, tmp_path: Path, body: str) -> None:
    """Also one that reads a tensor while it is built, or has buffers and tensors that no state dict holds."""
    module = write(body)()
    torch.save(module.state_dict(), tmp_path / "model.pth")
    runtime = opened(tmp_path / "model.pth")
    assert np.allclose(runtime(PIXELS), expected(module), atol=1e-6)


def test_weights_are_mapped_and_not_copied(write: Any, tmp_path: Path) -> None:
    """The file is in the process's memory map, so its workers share the pages; a plain copy would not be."""
    module = write("return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 300_000))")()
    file = tmp_path / "model.pth"
    torch.save(module.state_dict(), file)
    assert mapped_from(file) == 0
    runtime = opened(file)
    assert mapped_from(file) >= 48 * 300_000 * 4
    del runtime


def test_what_will_be_replaced_is_not_initialised(write: Any, tmp_path: Path) -> None:
    """It would take most of the time of building a large module, and memory for all of its weights."""
    build = write("""
        value = 7.0 + len(filled)  # freed memory may still hold the last one
        module = torch.nn.Linear(48, 3)
        torch.nn.init.constant_(module.weight, value)
        filled.append(bool((module.weight == value).all()))
        return module
    """)
    filled: list[bool] = []
    sys.modules["model_source.load"].__dict__["filled"] = filled
    torch.save(build().state_dict(), tmp_path / "model.pth")
    opened(tmp_path / "model.pth")
    assert filled == [True, False]


def test_weights_of_another_kind_are_converted(write: Any, tmp_path: Path) -> None:
    """A state dict in half precision for a module in single: as load_state_dict has always done it."""
    module = write(PLAIN)()
    half = {name: tensor.half() for name, tensor in module.state_dict().items()}
    torch.save(half, tmp_path / "model.pth")
    runtime = opened(tmp_path / "model.pth")
    assert np.allclose(runtime(PIXELS), expected(module), atol=1e-2)
    assert runtime(PIXELS).dtype == np.float32


def test_weights_that_do_not_fit_are_an_error(write: Any, tmp_path: Path) -> None:
    """And not a module with half of its weights."""
    torch.save({"other.weight": torch.zeros(3)}, tmp_path / "model.pth")
    write(PLAIN)
    with pytest.raises(RuntimeError, match="Missing key"):
        opened(tmp_path / "model.pth")
