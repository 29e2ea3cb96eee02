"""Files of weights as people have them: what only one thing can be meant by is loaded, the rest is told."""

from __future__ import annotations

import argparse
import json
import pathlib
import pickle
import re
import struct
import sys
import types
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchmar.errors import WeightsUnavailable
from torchmar.export._checkpoint import load_weights


def network() -> torch.nn.Module:
    """With a buffer that is no float, as BatchNorm has."""
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(16, 3))


class Wrapped(torch.nn.Module):
    """The same behind one more name."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()


TRAINED = network()
STATE = TRAINED.state_dict()


def under(prefix: str, state: Any = STATE) -> dict[str, Any]:
    """A state dict's names with something before them."""
    return {f"{prefix}{name}": value for name, value in state.items()}


def loaded(content: Any, tmp_path: Path, module: torch.nn.Module | None = None, **how: Any) -> list[str]:
    """What was said while a file with this content was loaded: its numbers are the trained ones then."""
    file = tmp_path / "w.pth"
    torch.save(content, file, **how)
    notes: list[str] = []
    module = module or network()
    load_weights(module, file, notes.append)
    for mine, trained in zip(module.state_dict().values(), STATE.values(), strict=True):
        assert torch.allclose(mine.float(), trained.float(), atol=1e-2)
    return notes


def refused(content: Any, tmp_path: Path, **how: Any) -> str:
    """Why a file with this content is refused: in one line that is not long, whatever the file holds."""
    file = tmp_path / "w.pth"
    if content is not None:
        torch.save(content, file, **how)
    with pytest.raises(WeightsUnavailable) as caught:
        load_weights(network(), file)
    message = str(caught.value)
    assert message.startswith(f"--weights {file}: ")
    assert len(message.splitlines()) == 1
    assert len(message.removeprefix(f"--weights {file}: ")) < 500
    return message


OPTIMIZER = torch.optim.Adam(TRAINED.parameters()).state_dict()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (STATE, None),
        (dict(STATE), None),
        ({"state_dict": STATE}, "taken from 'state_dict'"),
        (
            {"model_state_dict": STATE, "optimizer_state_dict": OPTIMIZER, "epoch": 3},
            "from 'model_state_dict'",
        ),
        ({"model": STATE, "args": argparse.Namespace(lr=1), "best": np.float64(1)}, "taken from 'model'"),
        ({"net": STATE, "where": pathlib.PurePosixPath("/x"), "seen": {1, 2}}, "taken from 'net'"),
        ({"checkpoint": {"weights": STATE}}, "taken from 'checkpoint.weights'"),
        (under("module."), "names without 'module.'"),
        (under("_orig_mod."), "names without '_orig_mod.'"),
        (under("module._orig_mod."), "names without 'module._orig_mod.'"),
        ({"model": under("backbone.")}, "taken from 'model', names without 'backbone.'"),
        ({"state_dict": {**under("model."), "loss.weight": torch.ones(3)}, "epoch": 1}, "without 'model.'"),
        (
            {f"{name.replace('.', '.module.', 1)}": v for name, v in STATE.items()},
            "without '_orig_mod.' and 'm",
        ),
        ({**STATE, "epoch": 3}, None),
        ({name: value for name, value in STATE.items() if "num_batches" not in name}, None),
        ({name: value.half() for name, value in STATE.items()}, None),
        ({n: v.bfloat16() if v.is_floating_point() else v for n, v in STATE.items()}, None),
        ({name: value.double() for name, value in STATE.items()}, None),
        ({"state_dict": STATE, "extra": {"other": torch.zeros(2)}}, "taken from 'state_dict'"),
        (OrderedDict(under("module.")), "names without 'module.'"),
    ],
)
def test_what_only_one_thing_can_be_meant_by(content: Any, said: str | None, tmp_path: Path) -> None:
    """Its weights are the module's then, and what was done is said: nothing where nothing was."""
    notes = loaded(content, tmp_path)
    if said is None:
        assert notes == []
    else:
        [note] = notes
        assert note.startswith("weights of w.pth: ")
        assert said in note


def test_weights_of_the_inner_module_for_one_that_wraps_it(tmp_path: Path) -> None:
    """Names may be missing a word as well as have one too many."""
    assert loaded(STATE, tmp_path, Wrapped()) == ["weights of w.pth: names with 'net.' before them"]
    [note] = loaded({"model": under("module.")}, tmp_path, Wrapped())
    assert "names with 'net.' before them" in note


def test_the_format_of_older_releases(tmp_path: Path) -> None:
    """A state dict in it is read; what else lies in such a file cannot be left out."""
    old = {"_use_new_zipfile_serialization": False}
    assert loaded({"model": STATE}, tmp_path, **old) == ["weights of w.pth: taken from 'model'"]
    assert "objects of argparse.Namespace" in refused(
        {"model": STATE, "args": argparse.Namespace()}, tmp_path, **old
    )


STEPPED = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
LESS = {name: value for name, value in STATE.items() if not name.startswith("2.")}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"model": STATE, "model_ema": STATE}, "save the right one alone.*: model, model_ema"),
        ({**under("student."), **under("teacher.")}, "'student.', names without 'teacher.'"),
        (
            {"generator": {"a": torch.ones(1)}, "critic": {"b": torch.ones(1)}},
            "none of generator, critic has",
        ),
        (LESS, "2 of its 9 names are missing, as '2.weight'"),
        ({"model": under("module.", LESS)}, "in model, 9 of its 9 names are missing"),
        ({**STATE, "3.weight": torch.ones(1)}, "1 are not its own, as '3.weight'"),
        (under("module.", {**STATE, "3.weight": torch.ones(1)}), "not its own, as 'module.0.weight'"),
        ({**STATE, "2.weight": torch.ones(9, 16)}, r"'2.weight' is \[9, 16\] in it, \[3, 16\] in the module"),
        ({n: v.to(torch.int8) for n, v in STATE.items()}, "'0.weight' is int8 in it, float32 in the module"),
        ({n: v.to(torch.complex64) for n, v in STATE.items()}, "complex64 in it"),
        ({f"a.very.long.name.{n}.{'x' * 99}": torch.ones(1) for n in range(500)}, "500 are not its own"),
        (OPTIMIZER, "the state of an optimizer"),
        (STEPPED, "the state of an optimizer"),
        ({"optimizer": STEPPED}, r"no weights are in it, but optimizer \(dict\)"),
        (
            {"optimizer": OPTIMIZER, "epoch": 3},
            r"no weights are in it, but optimizer \(dict\), epoch \(int\)",
        ),
        ([STATE], "it holds a list"),
        (torch.ones(3), "it holds a Tensor"),
        ({}, "but nothing"),
        (TRAINED, "an object of the class Sequential"),
        ({"model": TRAINED}, r"no weights are in it, but model \(Sequential\)"),
    ],
)
def test_what_is_not_clear_or_does_not_fit(content: Any, why: str, tmp_path: Path) -> None:
    """One line with what to do first; never a list of names."""
    assert re.search(why, refused(content, tmp_path))


def test_tied_weights_that_differ(tmp_path: Path) -> None:
    """One of them would be lost without a word; the same twice is what torch.save writes."""
    tied = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    state = tied.state_dict()
    torch.save(state, tmp_path / "w.pth")
    load_weights(tied, tmp_path / "w.pth")
    torch.save({**state, "1.weight": state["1.weight"] + 1}, tmp_path / "w.pth")
    with pytest.raises(WeightsUnavailable, match=r"'1.weight' and '0.weight' differ in it, and are one in"):
        load_weights(tied, tmp_path / "w.pth")


def zip_of_arrays(file: Path) -> None:
    np.savez(file.open("wb"), a=np.zeros(3))


def script(file: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), file)


def cut_off(file: Path, **how: Any) -> None:
    torch.save(STATE, file, **how)
    file.write_bytes(file.read_bytes()[:-300])


def damaged(file: Path) -> None:
    """One bit of one weight, which torch.load would load."""
    torch.save(STATE, file)
    content = bytearray(file.read_bytes())
    content[content.index(STATE["2.weight"].numpy().tobytes()) + 3] ^= 1
    file.write_bytes(content)


def cut_off_old(file: Path) -> None:
    cut_off(file, _use_new_zipfile_serialization=False)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("write", "why"),
    [
        (lambda file: file.write_bytes(b""), "fetch it again: it is empty"),
        (lambda file: file.write_bytes(bytes(4096)), "fetch it again: it is empty"),
        (cut_off, "fetch it again: it is incomplete"),
        (cut_off_old, "fetch it again: it is incomplete"),
        (damaged, "fetch it again.* it is damaged"),
        (lambda file: file.write_text("version https://git-lfs.github.com/spec/v1\n"), "run `git lfs pull`"),
        (lambda file: file.write_text("<!DOCTYPE html>"), "a web page"),
        (lambda file: file.write_text("weights"), "save the state dict by"),
        (lambda file: file.write_bytes(pickle.dumps({"a": np.zeros(3)})), "save the state dict"),
        (lambda file: file.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "HDF5"),
        (lambda file: file.write_bytes(b"\x1f\x8b" + bytes(99)), "unpack it"),
        (zip_of_arrays, "a zip that torch.save did not write"),
        (script, r"torch\.jit\.load\(OLD\)\.state_dict\(\).*TorchScript"),
        (lambda file: file.mkdir(), "name the file in it: a folder, with no files"),
    ],
)
def test_files_of_other_kinds_and_broken_ones(
    write: Callable[[Path], None], why: str, tmp_path: Path
) -> None:
    """Each is told for what it is."""
    write(tmp_path / "w.pth")
    assert re.search(why, refused(None, tmp_path))


def test_an_onnx_graph_and_an_address(tmp_path: Path) -> None:
    """By their names."""
    (tmp_path / "m.onnx").write_bytes(b"\x08\x07\x12\x07pytorch")
    with pytest.raises(WeightsUnavailable, match="give what it was exported from"):
        load_weights(network(), tmp_path / "m.onnx")
    with pytest.raises(WeightsUnavailable, match="download it: no such file"):
        load_weights(network(), Path("https://example.org/w.pth"))


class Executed:
    """Makes a folder when it is unpickled by a reader that trusts it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return (Path.mkdir, (self.folder,))


class Options:
    """What a training script keeps."""

    def __init__(self) -> None:
        self.rate = 0.1


def test_an_object_beside_the_weights_is_not_run(tmp_path: Path) -> None:
    """It gets a stand-in that keeps nothing; what would do more than be there is refused."""
    assert loaded({"model": STATE, "o": Options()}, tmp_path) == ["weights of w.pth: taken from 'model'"]
    refused({"model": STATE, "options": Executed(tmp_path / "executed")}, tmp_path)
    assert not (tmp_path / "executed").exists()


def safetensors(state: dict[str, torch.Tensor]) -> bytes:
    """The format, by its description: the length of a JSON header, the header, the numbers."""
    header, data = {}, b""
    for name, value in state.items():
        raw = value.contiguous().numpy().tobytes()
        kind = {torch.float32: "F32", torch.int64: "I64"}[value.dtype]
        header[name] = {
            "dtype": kind,
            "shape": list(value.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize("name", ["w.safetensors", "w.bin"])
def test_safetensors_by_name_or_content(name: str, tmp_path: Path) -> None:
    """Read by their own library."""
    pytest.importorskip("safetensors")
    (tmp_path / name).write_bytes(safetensors(under("model.")))
    notes: list[str] = []
    module = network()
    load_weights(module, tmp_path / name, notes.append)
    assert torch.equal(module.state_dict()["2.weight"], STATE["2.weight"])
    assert notes == [f"weights of {name}: names without 'model.'"]


def test_safetensors_without_their_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no dependency: what to install is told."""
    monkeypatch.setitem(sys.modules, "safetensors", types.ModuleType("safetensors"))
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    (tmp_path / "w.safetensors").write_bytes(safetensors(STATE))
    with pytest.raises(WeightsUnavailable, match="pip install safetensors"):
        load_weights(network(), tmp_path / "w.safetensors")


KEYS = (
    st.text("ab.01", max_size=4)
    | st.sampled_from(["model", "state_dict", "module.w", "w", "x.w"])
    | st.integers()
)
VALUES = st.recursive(
    st.none()
    | st.integers()
    | st.just(torch.ones(2))
    | st.just(torch.ones(3))
    | st.just(torch.ones(2).int()),
    lambda inner: st.dictionaries(KEYS, inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=8,
)


@settings(max_examples=150)
@given(VALUES)
def test_any_content_gives_weights_or_weights_unavailable(content: Any) -> None:
    """Whatever lies in a file: the module's one tensor of two is set to ones, or one line says why not."""
    from tempfile import TemporaryDirectory

    module = torch.nn.Module()
    module.w = torch.nn.Parameter(torch.zeros(2))
    with TemporaryDirectory() as folder:
        torch.save(content, Path(folder, "w.pth"))
        try:
            load_weights(module, Path(folder, "w.pth"))
        except WeightsUnavailable as error:
            told = str(error).splitlines()
        else:
            told = [str(module.w.tolist())]
    assert len(told) == 1
    assert told[0].startswith("--weights") or told == ["[1.0, 1.0]"]
