"""nn.Module → artifact: where the weights come from, and that the artifact answers as the module does."""

from __future__ import annotations

import pickle
import re
import shutil
import struct
import sys
import tempfile
import textwrap
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from torchmar.errors import ExportError, ParityError, WeightsUnavailable
from torchmar.export import (
    Weights,
    build_artifacts,
    inputs_digest,
    load_module,
    toolchain,
)
from torchmar.export._parity import rounded as round_up
from torchmar.spec import ModelSource, load_model

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "models" / "tiny"
RANDOM = Weights("random")

SPEC = """\
name: m
version: "1"
handler: image_classifier
source: load:build
runtime: eager
params:
  size: [4, 4]
  mean: [0, 0, 0]
  std: [1, 1, 1]
"""

LINEAR = """
import torch

def build(pretrained=True):
    if pretrained:
        torch.manual_seed(99)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
"""

Make = Callable[..., ModelSource]


def module_with(forward: str, init: str = "") -> str:
    """A load.py whose module computes `forward` of `x` and of `self.linear`, 48 numbers to 3."""
    return textwrap.dedent(f"""
        import torch

        class Module(torch.nn.Module):
            def __init__(self, pretrained):
                super().__init__()
                self.linear = torch.nn.Linear(48, 3)
                {init or "pass"}

            def forward(self, x):
                y = self.linear(x.flatten(1))
                {forward}

        def build(pretrained=True):
            torch.manual_seed(5)
            return Module(pretrained)
        """)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A model folder with this load.py, and more lines for model.yaml."""

    def write(code: str = LINEAR, more: str = "", **files: str) -> ModelSource:
        folder = tmp_path / "model"
        folder.mkdir(exist_ok=True)
        (folder / "load.py").write_text(code)
        for name, content in files.items():
            (folder / f"{name}.py").write_text(content)
        (folder / "model.yaml").write_text(SPEC + more)
        return load_model(folder)

    return write


def numbers(module: torch.nn.Module) -> list[float]:
    """All of a module's weights."""
    return [float(x) for tensor in module.state_dict().values() for x in tensor.flatten()]


# -- what it is asked ---------------------------------------------------------------------------


def test_a_golden_request_that_the_handler_refuses_is_named(make: Make, tmp_path: Path) -> None:
    """With what to do, and why."""
    (tmp_path / "model" / "golden").mkdir(parents=True)
    (tmp_path / "model" / "golden" / "notes.txt").write_text("todo")
    with pytest.raises(ExportError, match=r"notes\.txt: remove it, or put it right: no picture: "):
        build_artifacts(make(more="golden: golden\n"), RANDOM, tmp_path)


# -- where the weights come from ----------------------------------------------------------------

UNSEEDED = "import torch\ndef build(pretrained=True):\n    {}\n    return torch.nn.Sequential({})\n"
FLAT = "torch.nn.Flatten(), torch.nn.Linear(48, 3)"


@pytest.mark.parametrize("call", ["pass", "import numpy; numpy.random.seed(1)"])
def test_weights_that_nobody_set_are_not_taken_for_pretrained(make: Make, tmp_path: Path, call: str) -> None:
    """A function that ignores `pretrained` would fill an archive with chance."""
    with pytest.raises(ExportError) as caught:
        build_artifacts(make(UNSEEDED.format(call, FLAT)), Weights(), tmp_path)
    assert str(caught.value) == (
        "m: give --weights FILE, or --weights random, or set the seed in it: load:build gives other weights "
        "each time, as '1.weight'"
    )


@pytest.mark.parametrize("where", ["inside", "above"])
def test_weights_by_a_seed_of_the_code_are_its_own(make: Make, tmp_path: Path, where: str) -> None:
    """A model that is trained, or made, under a fixed seed is the same each time, wherever that is set."""
    seed = "torch.manual_seed(3)"
    code = UNSEEDED.format(seed if where == "inside" else "pass", FLAT)
    code = code.replace("\ndef", f"\n{seed}\ndef", 1) if where == "above" else code
    assert build_artifacts(make(code), Weights(), tmp_path).notes == []


def test_weights_that_are_never_used_stop_nobody(make: Make, tmp_path: Path) -> None:
    """As the pooler of a transformer whose checkpoint has none; that they differ is told."""
    code = module_with("return y", "self.spare = torch.nn.Linear(2, 2)").replace(
        "    return Module(pretrained)",
        "    module = Module(pretrained)\n    torch.seed()\n"
        "    module.spare.reset_parameters()\n    return module",
    )
    [note] = build_artifacts(make(code), Weights(), tmp_path).notes
    assert note == "load:build gives other weights each time, as 'spare.weight', which change no answer"


@pytest.mark.parametrize(("limit", "why"), [("_LONGEST", "it took"), ("_LARGEST", "they are 0 MB")])
def test_what_takes_long_is_not_loaded_twice(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, why: str
) -> None:
    """A function that trains for an hour runs once; that it was not tried is told."""
    monkeypatch.setattr(f"torchmar.export._determinism.{limit}", 0)
    [note] = build_artifacts(make(UNSEEDED.format("pass", FLAT)), Weights(), tmp_path).notes
    assert note.startswith(f"whether load:build gives the same weights each time was not tried: {why}")


def test_random_weights_depend_on_the_seed_alone(make: Make) -> None:
    """The same seed gives the same weights whatever was drawn before; another seed gives others."""
    source = make()
    first = numbers(load_module(source, Weights("random", 3)))
    torch.rand(17)
    assert numbers(load_module(source, Weights("random", 3))) == first
    assert numbers(load_module(source, Weights("random", 4))) != first


def test_a_function_without_that_parameter_is_called_without_it(make: Make) -> None:
    """A plain function that builds a module is a source, too; its weights are its own, or a file's."""
    code = LINEAR.replace("pretrained=True", "").replace("if pretrained:", "if True:")
    expected = numbers(load_module(make(), Weights()))
    assert numbers(load_module(make(code), Weights())) == expected
    assert numbers(load_module(make(code), RANDOM)) == expected


def test_pretrained_is_what_the_source_gives(make: Make) -> None:
    """`pretrained=True` is passed on, and the module comes out ready to infer."""
    module = load_module(make(), Weights())
    torch.manual_seed(99)
    assert numbers(module) == numbers(torch.nn.Linear(48, 3))
    assert not module.training
    assert [p.requires_grad for p in module.parameters()] == [False, False]


def test_weights_from_a_state_dicts_file(make: Make, tmp_path: Path) -> None:
    """What torch.save(module.state_dict(), FILE) wrote is what the module has."""
    source = make()
    trained = load_module(source, Weights("random", 8))
    torch.save(trained.state_dict(), tmp_path / "w.pth")
    loaded = load_module(source, Weights(str(tmp_path / "w.pth")))
    assert numbers(loaded) == numbers(trained)


class Executed:
    """Makes a folder when it is unpickled by a reader that trusts it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return (Path.mkdir, (self.folder,))


def pickled(path: Path) -> None:
    """What an attacker would send: a plain pickle."""
    path.write_bytes(pickle.dumps(Executed(path.parent / "executed"), protocol=2))


def saved_object(path: Path) -> None:
    """The same, hidden in a state dict that torch.save wrote."""
    torch.save({"1.weight": torch.zeros(3, 48), "1.bias": Executed(path.parent / "executed")}, path)


def saved_module(path: Path) -> None:
    """A common habit: the module instead of its state dict."""
    torch.save(torch.nn.Linear(48, 3), path)


def truncated(path: Path) -> None:
    """A download that broke off."""
    torch.save(torch.nn.Linear(48, 3).state_dict(), path)
    path.write_bytes(path.read_bytes()[:500])


NO_STATE = "save the state dict"
NOT_FITTING = "give the weights of the model that `source` builds"


@pytest.mark.parametrize(
    ("write", "what"),
    [
        (lambda _: None, "no such file"),
        (lambda path: path.mkdir(), "name the file in it: a folder, with no files"),
        (lambda path: path.write_bytes(b""), "fetch it again: it is empty"),
        (lambda path: path.write_text("weights"), NO_STATE),
        (lambda path: path.write_bytes(b"\x80"), NO_STATE),
        (lambda path: path.write_bytes(b"PK\x03\x04"), "fetch it again: it is incomplete"),
        (truncated, "fetch it again: it is incomplete"),
        (pickled, "it holds objects of "),
        (saved_object, NO_STATE),
        (saved_module, "an object of the class Linear"),
        (lambda path: torch.save([torch.zeros(3)], path), "it holds a list"),
        (lambda path: torch.save({"1.weight": torch.zeros(3, 48)}, path), NOT_FITTING),
        (lambda path: torch.save({"1.weight": torch.zeros(3, 47), "1.bias": torch.zeros(3)}, path), "47"),
        (lambda path: torch.save({1: 2}, path), NO_STATE),
        (lambda path: torch.save({"1.weight": 1, "1.bias": "x"}, path), r"no weights.*1\.weight \(int\)"),
    ],
)
def test_files_that_hold_no_weights_for_this_module(
    make: Make, tmp_path: Path, write: Callable[[Path], None], what: str
) -> None:
    """Each says which file, and nothing that is in it is executed."""
    file = tmp_path / "w.pth"
    write(file)
    with pytest.raises(WeightsUnavailable, match=what) as caught:
        load_module(make(), Weights(str(file)))
    assert str(caught.value).startswith(f"--weights {file}: ")
    assert not (tmp_path / "executed").exists()


def test_the_pickle_above_would_have_been_executed(tmp_path: Path) -> None:
    """The test before this one would notice."""
    pickled(tmp_path / "w.pth")
    pickle.loads((tmp_path / "w.pth").read_bytes())
    assert (tmp_path / "executed").is_dir()


def test_a_long_list_of_what_does_not_fit_is_cut(make: Make, tmp_path: Path) -> None:
    """A wrong state dict can have hundreds of names; two say enough."""
    layers = "*[torch.nn.Linear(n + 1, 1) for n in range(100)]"
    code = f"import torch\ndef build(pretrained=True):\n    return torch.nn.Sequential({layers})\n"
    torch.save({f"{n}.weight": torch.zeros(7, 7) for n in range(100)}, tmp_path / "w.pth")
    with pytest.raises(WeightsUnavailable) as caught:
        load_module(make(code), Weights(str(tmp_path / "w.pth")))
    message = str(caught.value)
    assert "100 of its 200 names are missing, as '0.bias'" in message
    assert len(message.splitlines()) == 1
    assert len(message) < 300


@pytest.mark.parametrize(
    "raised",
    [
        "urllib.error.URLError('name resolution failed')",
        "TimeoutError('name resolution failed')",
        "ConnectionResetError('name resolution failed')",
        "urllib.error.HTTPError('http://x', 404, 'name resolution failed', {}, None)",
    ],
)
def test_a_hub_that_cannot_be_reached(make: Make, raised: str) -> None:
    """The reason, and the two ways on: `--weights FILE` and `--weights random`."""
    code = f"import urllib.error\ndef build(pretrained=True):\n    raise {raised}\n"
    with pytest.raises(WeightsUnavailable) as caught:
        load_module(make(code), Weights())
    message = str(caught.value)
    assert message.startswith("m: its pretrained weights could not be fetched: ")
    assert "name resolution failed" in message
    assert "--weights FILE " in message
    assert "--weights random" in message


# -- sources that do not work -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "what"),
    [
        (
            "def build(pretrained=True): return 'no module'",
            r"load:build returned str, expected a torch\.nn\.M",
        ),
        ("def build(pretrained=True): return None", "load:build returned NoneType"),
        ("import torch\nbuild = torch.nn.Linear(1, 1).state_dict()", "has no function build"),
        ("def other(pretrained=True): ...", r"load\.py: has no function build, which `source` names"),
        ("def build(", r"load\.py line 1: SyntaxError"),
        ("1 / 0", r"load\.py line 1: ZeroDivisionError"),
        ("import nonesuch", r"load\.py: pip install .*`requirements` lists: einops==9 more: .*'nonesuch'"),
        ("def build(pretrained=True): import nonesuch", r"load:build.*lists: einops==9 more: .*'nonesuch'"),
        ("def build(pretrained=True): raise ValueError('no such variant')", "load:build.*no such variant"),
    ],
)
@pytest.mark.parametrize("weights", [Weights(), RANDOM], ids=["pretrained", "random"])
def test_sources_that_give_no_module(make: Make, code: str, what: str, weights: Weights) -> None:
    """One ExportError that names the file or the function, with and without pretrained weights."""
    with pytest.raises(ExportError, match=what) as caught:
        load_module(make(code, "requirements: [einops==9, more]\n"), weights)
    assert not isinstance(caught.value, WeightsUnavailable)


def test_an_error_of_the_system_with_random_weights_is_not_the_hubs(make: Make) -> None:
    """`pretrained=False` fetches nothing: `--weights` would be no way out."""
    code = "def build(pretrained=True): open('/nonesuch')"
    with pytest.raises(ExportError, match=r"load:build.*FileNotFoundError.*/nonesuch") as caught:
        load_module(make(code), RANDOM)
    assert not isinstance(caught.value, WeightsUnavailable)


def test_a_source_imports_its_siblings_and_leaves_no_module_behind(make: Make) -> None:
    """As in the archive: relative imports work, and the next model's `load` is its own."""
    code = "from . import parts\nfrom .parts import layer\ndef build(pretrained=True): return layer()\n"
    sibling = "import torch\ndef layer(): return torch.nn.Linear(2, {})\n"
    before, path = set(sys.modules), list(sys.path)
    assert load_module(make(code, parts=sibling.format(3)), RANDOM).out_features == 3
    shutil.rmtree(make(code).directory / "__pycache__", ignore_errors=True)
    assert load_module(make(code, parts=sibling.format(44)), RANDOM).out_features == 44
    added = {name.partition(".")[0] for name in sys.modules.keys() - before}
    assert not added & {"model_source", "load", "parts"}
    assert sys.path == path


# -- the artifact and its parity ----------------------------------------------------------------


def test_an_eager_artifact_is_the_modules_state_dict(make: Make, tmp_path: Path) -> None:
    """And its record: four seeded inputs, no golden ones, no difference to speak of."""
    said: list[str] = []
    artifact = build_artifacts(make(), Weights("random", 3), tmp_path, said.append)
    assert artifact.files["model"] == tmp_path / "model.pth"
    state = torch.load(artifact.files["model"], weights_only=True)
    expected = load_module(make(), Weights("random", 3)).state_dict()
    assert {name: tensor.tolist() for name, tensor in state.items()} == {
        name: tensor.tolist() for name, tensor in expected.items()
    }
    parity = artifact.parity
    assert parity is not None
    assert (parity.inputs, parity.golden, parity.agreement, parity.seed) == (4, 0, 1.0, 3)
    assert parity.max_abs_error < 1e-6  # another batch size, another order of additions
    assert artifact.golden == {}
    assert said == [
        "importing torch",
        "loading the module",
        "asking the module",
        "exporting to eager",
        "checking parity",
    ]


@pytest.mark.parametrize("runtime", ["eager", "onnx"])
def test_the_artifact_normalizes_to_the_bit_as_torchvision_does(
    make: Make, tmp_path: Path, runtime: str
) -> None:
    """A module that gives back what it is given: the artifact's pixels and the module's own are the same."""
    own = "mean: [0.485, 0.456, 0.406]\n  std: [0.229, 0.224, 0.225]"
    make(module_with("return x.flatten(1)"))
    text = SPEC.replace("mean: [0, 0, 0]\n  std: [1, 1, 1]", own) + "accept: {max_abs_error: 0}\n"
    (tmp_path / "model" / "model.yaml").write_text(text)
    source = load_model(tmp_path / "model", {"runtime": runtime})
    parity = build_artifacts(source, RANDOM, tmp_path).parity
    assert parity is not None
    assert parity.max_abs_error == 0


def test_convolutions_are_packed_in_the_order_that_is_fastest(tmp_path: Path) -> None:
    """A worker maps the file, and could not reorder its weights without a copy of its own."""
    artifact = build_artifacts(load_model(TINY, {"runtime": "eager"}), Weights(), tmp_path)
    state = torch.load(artifact.files["model"], weights_only=True)
    assert state["0.weight"].is_contiguous(memory_format=torch.channels_last)
    assert not state["0.weight"].is_contiguous()


def as_saved(state: dict[str, Any], file: Path) -> None:
    torch.save(state, file)


def as_old_releases_save(state: dict[str, Any], file: Path) -> None:
    torch.save(state, file, _use_new_zipfile_serialization=False)


def in_half_precision(state: dict[str, Any], file: Path) -> None:
    torch.save({name: value.half() for name, value in state.items()}, file)


def in_another_order(state: dict[str, Any], file: Path) -> None:
    torch.save(dict(reversed(list(state.items()))), file)


def as_part_of_more(state: dict[str, Any], file: Path) -> None:
    more = torch.cat([state["1.weight"].flatten(), torch.zeros(2**20)])
    torch.save({**state, "1.weight": more[: 48 * 3].view(3, 48)}, file)


@pytest.mark.parametrize(
    ("save", "as_it_is"),
    [
        (as_saved, True),
        (as_old_releases_save, False),
        (in_half_precision, False),
        (in_another_order, False),
        (as_part_of_more, False),
    ],
)
def test_a_state_dict_that_need_not_be_saved_again_is_not(
    make: Make, tmp_path: Path, save: Callable[[dict[str, Any], Path], None], as_it_is: bool
) -> None:
    """Only one that is what saving would give: a worker maps it, and nothing else travels with it."""
    source = make(LINEAR)
    state = load_module(source, RANDOM).state_dict()
    file = tmp_path / "w.pth"
    save(state, file)
    artifact = build_artifacts(source, Weights(str(file)), tmp_path)
    assert (artifact.files["model"] == file) == as_it_is
    loaded = torch.load(artifact.files["model"], weights_only=True, mmap=True)
    assert {name: value.dtype for name, value in loaded.items()} == {n: v.dtype for n, v in state.items()}
    if save is not in_half_precision:
        assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_golden_answers_are_the_modules_own(tmp_path: Path) -> None:
    """What the handler makes of the module's scores, for each golden picture; torchvision agrees."""
    from torchvision import transforms

    steps = transforms.Compose(
        [transforms.Resize([32, 32]), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
    )
    source = load_model(TINY, {"runtime": "eager"})
    artifact = build_artifacts(source, Weights(), tmp_path)
    module = load_module(source, Weights())
    for path in source.golden_files():
        scores = module(steps(Image.open(path).convert("RGB"))[None]).softmax(-1)[0]
        first = artifact.golden[path.name]["answer"][0]
        assert first["index"] == int(scores.argmax())
        assert first["probability"] == pytest.approx(float(scores.max()), abs=1e-5)
    count = len(source.golden_files())
    assert artifact.parity is not None
    assert (artifact.parity.inputs, artifact.parity.golden) == (4 + count, count)
    assert artifact.comparator.as_json() == {"kind": "first", "by": ["label", "index"]}


def test_a_module_that_answers_differently_each_time_is_refused(make: Make, tmp_path: Path) -> None:
    """Dropout left on, a random crop: no artifact can answer as it does."""
    with pytest.raises(ParityError, match=r"m: the eager artifact does not.*max_abs_error .* exceeds 0\.001"):
        build_artifacts(make(module_with("return y + torch.rand_like(y)")), RANDOM, tmp_path)


OFFSET = module_with("return y + self.offset", init="self.offset = 0.02 if pretrained else 0.0")


@pytest.mark.parametrize(
    ("accept", "refused"),
    [
        ("{max_abs_error: 0.01}", "max_abs_error 0.021? exceeds 0.01"),
        ("{max_abs_error: 0}", "exceeds 0: "),
        ("{max_abs_error: 0.03}", None),
    ],
)
def test_accept_decides_what_difference_is_too_large(
    make: Make, tmp_path: Path, accept: str, refused: str | None
) -> None:
    """A module that `pretrained=False` builds a little differently: 0.02 off, the same classes."""
    source = make(OFFSET, f"accept: {accept}\n")
    if refused is None:
        parity = build_artifacts(source, Weights(), tmp_path).parity
        assert parity is not None
        assert 0.0199 < parity.max_abs_error <= 0.021
        assert parity.agreement == 1.0
    else:
        with pytest.raises(
            ParityError, match=rf"{refused}.*measured on 4 inputs; see `accept` in model\.yaml"
        ):
            build_artifacts(source, Weights(), tmp_path)


def test_other_classes_are_refused_whatever_the_numbers(make: Make, tmp_path: Path) -> None:
    """The agreement of what is answered counts on its own."""
    code = module_with("return y if self.same else y.flip(1)", init="self.same = pretrained")
    with pytest.raises(ParityError, match=r"agreement 0(\.\d+)? is below 1 "):
        build_artifacts(make(code, "accept: {max_abs_error: 1000}\n"), Weights(), tmp_path)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_an_answer_that_is_no_number_is_refused(make: Make, tmp_path: Path, value: str) -> None:
    """Of one picture or of all, whatever `accept` allows, before anything is exported."""
    code = module_with(f"y[x[:, 0, 0, 0] == x[:, 0, 0, 0]] = float('{value}'); return y")
    said: list[str] = []
    with pytest.raises(ExportError, match=rf"check the weights, .* for . of . pictures .* gives {value}"):
        build_artifacts(make(code, "accept: {max_abs_error: 1e+30}\n"), RANDOM, tmp_path, said.append)
    assert said == ["importing torch", "loading the module", "asking the module"]


def test_an_artifact_of_another_shape_is_refused(make: Make, tmp_path: Path) -> None:
    """The number of classes is part of the answer."""
    code = module_with("return y if self.all else y[:, :2]", init="self.all = pretrained")
    with pytest.raises(ParityError, match=r"the artifact gives \[1, 2\], the module \[1, 3\]"):
        build_artifacts(make(code), Weights(), tmp_path)


def test_weights_that_only_the_pretrained_module_has_are_told(make: Make, tmp_path: Path) -> None:
    """Then the archive could not load them: the source is at fault, and not `--weights`."""
    code = module_with("return y", init="self.extra = torch.nn.Linear(1, 1) if pretrained else None")
    with pytest.raises(ExportError, match=r"(?s)load:build\(pretrained=False\).*extra\.weight") as caught:
        build_artifacts(make(code), Weights(), tmp_path)
    assert not isinstance(caught.value, WeightsUnavailable)
    assert "--weights" not in str(caught.value)
    assert "build the same module as before" in str(caught.value)


@pytest.mark.parametrize(
    ("forward", "what"),
    [
        (
            "return x",
            r"return what the handler takes: found \[1, 3, 4, 4\], expected scores of shape \[1, cl",
        ),
        ("return y[:2]", r"found \[2, 3\], expected scores of shape \[3, classes\]"),
        ("return y[:, :0]", r"found \[1, 0\]"),
        ("return (y, y)", r"2 tensors \(0, 1\) in a tuple"),
        ("return {'out': y, 'aux': y}", r"2 tensors \(out, aux\) in a dict"),
        ("return y.numpy()", "no tensor in a ndarray"),
        ("return 'cat'", "no tensor in a str"),
        ("return y.long()", "int64 numbers"),
        ("return torch.complex(y, y)", "complex64 numbers"),
        ("return y.to('meta')", "meta"),
        ("return y @ y", r"fails on inputs of shape \[1, 4, 4, 3\]: load\.py line 12: RuntimeError: .*multi"),
        ("raise KeyError", r"fails on inputs of shape \[1, 4, 4, 3\]: load\.py line 12: KeyError"),
        ("raise SystemExit(3)", "move what ends the program .*: load.py line 12: SystemExit: 3"),
    ],
)
def test_modules_that_give_no_logits(make: Make, tmp_path: Path, forward: str, what: str) -> None:
    """A classifier answers a batch of pictures with a row of numbers for each: anything else is told."""
    with pytest.raises(ExportError, match=what) as caught:
        build_artifacts(make(module_with(forward)), RANDOM, tmp_path)
    assert not isinstance(caught.value, ParityError)


def test_a_module_that_onnx_cannot_express_is_told_with_a_way_out(
    make: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line: the runtime that serves any module, where it fails, and the file with all that was said."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    source = make(module_with("return y if y.sum() > 0 else -y"), "  topk: 1\n")
    capfd.readouterr()
    with pytest.raises(ExportError) as caught:
        build_artifacts(load_model(source.directory, {"runtime": "onnx"}), RANDOM, tmp_path)
    message = str(caught.value)
    assert message.startswith(
        "m: write `runtime: eager`, which serves any module, or change what could not be"
    )
    assert "load.py line 12: GuardOnDataDependentSymNode" in message
    assert len(message.splitlines()) == 1
    found = re.search(r"\(all (\d+) lines: (.+\.log)\)$", message)
    assert found is not None
    log = Path(found[2]).read_text()
    assert len(log.splitlines()) == int(found[1]) > 50
    assert "Traceback" in log
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("missing", ["torch", "onnxscript"])
def test_packages_that_exporting_needs(
    monkeypatch: pytest.MonkeyPatch, make: Make, tmp_path: Path, missing: str
) -> None:
    """Told by name before anything is imported, with the extra that brings them."""
    monkeypatch.setitem(sys.modules, missing, None)
    source = load_model(make().directory, {"runtime": "onnx"})
    with pytest.raises(ExportError, match=rf"exporting needs {missing}, .*'torchmar\[export\]'"):
        build_artifacts(source, RANDOM, tmp_path)


def test_the_chatter_of_a_library_stays_off_stdout(
    make: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """`--json` prints JSON there that a program reads."""
    code = module_with("print('forward'); return y", init="print('built')")
    build_artifacts(make("print('imported')\n" + code), Weights(), tmp_path)
    assert capfd.readouterr().out == ""


@given(st.floats(min_value=0, max_value=1e300))
def test_parity_is_rounded_upwards(value: float) -> None:
    """Two digits, never less than what was measured, and no more than a tenth above it."""
    rounded = round_up(value)
    assert value <= rounded <= value * 1.1 + 1e-322
    assert round_up(rounded) == rounded


# -- golden requests and preprocessing ----------------------------------------------------------


def picture_of_ten_gigabytes() -> bytes:
    """A PNG's header that says 100,000 × 100,000."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack("!I", len(content)) + kind + content + struct.pack("!I", zlib.crc32(kind + content))
        )

    header = struct.pack("!IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")


@pytest.mark.parametrize(
    "content",
    [b"", b"not a picture", picture_of_ten_gigabytes(), (TINY / "golden" / "noise.png").read_bytes()[:99]],
    ids=["empty", "text", "too large", "truncated"],
)
def test_golden_requests_that_are_no_pictures(make: Make, tmp_path: Path, content: bytes) -> None:
    """Named by their path, whatever the decoder raises."""
    golden = make().directory / "golden"
    golden.mkdir()
    (golden / "a.png").write_bytes(content)
    with pytest.raises(ExportError, match=r"golden request .*golden/a\.png: "):
        build_artifacts(make(more="golden: golden\n"), RANDOM, tmp_path)


# -- the record ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "requirement", ["pyyaml", "PyYAML>=6", "PyYAML==6.0.3", "PyYAML [x] ; python_version>'3'"]
)
def test_the_toolchain_has_the_version_of_each_requirement(make: Make, requirement: str) -> None:
    """However it is written."""
    name = "pyyaml" if requirement == "pyyaml" else "PyYAML"
    found = toolchain(make(more=f'requirements: ["{requirement}", "", "nonesuch==1", "-r x"]\n'))
    assert found[name] == __import__("yaml").__version__
    assert found["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert "nonesuch" not in found


def test_the_digest_of_the_inputs_does_not_depend_on_where_they_are(make: Make, tmp_path: Path) -> None:
    """Another folder, the same contents, weights of another name: the same archive."""
    first, other = make(), tmp_path / "other"
    shutil.copytree(first.directory, other, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "a.pth").write_bytes(b"weights")
    (tmp_path / "b.pth").write_bytes(b"weights")
    (tmp_path / "c.pth").write_bytes(b"others")
    digests = [
        inputs_digest(source, Weights(str(tmp_path / file)))
        for source, file in ((first, "a.pth"), (load_model(other), "b.pth"), (first, "c.pth"))
    ]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("name", ["missing.pth", "."])
def test_weights_that_cannot_be_read_have_no_digest(make: Make, tmp_path: Path, name: str) -> None:
    """Told as such, before torch is imported."""
    with pytest.raises(WeightsUnavailable, match=r"--weights .*\(or write `random`\)"):
        inputs_digest(make(), Weights(str(tmp_path / name)))
