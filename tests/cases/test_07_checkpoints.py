"""Case 07: checkpoints as training scripts leave them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from torchmar.errors import WeightsUnavailable
from torchmar.export import Weights, build_artifacts
from torchmar.spec import ModelSource, load_model

from .models import model_folder

CODE = """
import torch
def build(pretrained=True):
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(144, 3)
    )
"""


@pytest.fixture
def source(tmp_path: Path) -> ModelSource:
    """An eager model."""
    return load_model(model_folder(tmp_path / "model", CODE, "runtime: eager\n"))


def trained() -> torch.nn.Module:
    """The same network, as it is after training."""
    torch.manual_seed(7)
    space: dict[str, Any] = {}
    exec(CODE, space)
    return space["build"]()


def prefixed(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize(
    ("save", "note"),
    [
        (lambda state: prefixed("module.", state), "names without 'module.'"),
        (
            lambda state: {"epoch": 3, "state_dict": prefixed("model.", state), "optimizer_states": []},
            "taken from 'state_dict', names without 'model.'",
        ),
        (lambda state: {"model": state, "args": {"lr": 0.1}}, "taken from 'model'"),
        (lambda state: {name: v.half() if v.is_floating_point() else v for name, v in state.items()}, ""),
    ],
)
def test_they_are_unwrapped_and_that_is_said(
    source: ModelSource, tmp_path: Path, save: Callable[[dict[str, Any]], dict[str, Any]], note: str
) -> None:
    """What is packed is the module's own state dict."""
    state = trained().state_dict()
    torch.save(save(state), tmp_path / "w.ckpt")
    (tmp_path / "built").mkdir()
    artifact = build_artifacts(source, Weights(str(tmp_path / "w.ckpt")), tmp_path / "built")
    packed = torch.load(artifact.files["model"], weights_only=True)
    assert packed.keys() == state.keys()
    assert all(torch.allclose(packed[name], state[name], atol=1e-3) for name in state)
    assert artifact.notes == ([f"weights of w.ckpt: {note}"] if note else [])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("save", "remedy"),
    [
        (
            torch.save,
            "save the state dict by torch.save(module.state_dict(), FILE)",
        ),
        (
            lambda net, file: torch.jit.script(net).save(file),
            "save its state dict alone, by torch.save(torch.jit",
        ),
        (
            lambda net, file: torch.save(prefixed("other", net.state_dict()), file),
            "give the weights of the model",
        ),
        (lambda _, file: file.write_bytes(b"\x80\x02"), "save the state dict"),
    ],
)
def test_the_rest_is_one_sentence(
    source: ModelSource, tmp_path: Path, save: Callable[[Any, Path], None], remedy: str
) -> None:
    """The file, then what to do; no list of names."""
    file = tmp_path / "w.pth"
    save(trained(), file)
    with pytest.raises(WeightsUnavailable) as caught:
        build_artifacts(source, Weights(str(file)), tmp_path)
    message = str(caught.value)
    assert message.startswith(f"--weights {file}: {remedy}")
    assert len(message.splitlines()) == 1
    assert len(message) < 400 + len(str(file))
