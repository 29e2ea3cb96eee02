"""What newcomers do: each mistake is one line that says what to write instead."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from handlers.labels import read_labels
from tests.any_model import PARCELS_HANDLER, PARCELS_MODULE, PLAIN, write_model, write_parcels
from torchmar.adopt import _imports
from torchmar.archive import build
from torchmar.compare import CLOSE, Comparator
from torchmar.errors import ArchiveError, TorchmarError, WorkerLoadError
from torchmar.export import Weights
from torchmar.export._checkpoint import load_weights
from torchmar.golden import is_repeated
from torchmar.mar import BUILD
from torchmar.spec import load_model
from torchmar.worker import check_archive
from torchmar.worker._asker import cause_of
from torchmar.worker._missing import to_install

from .test_any_handler import MODULE, built, names
from .test_any_model import refused, unpacked
from .test_cli import ROOT, torchmar

GREETER = """\
class Greeter:
    def initialize(self, context): ...

    def handle(self, data, context):
        return ["hi"] * len(data)
"""


def plain(folder: Path, code: str = PLAIN, golden: dict[str, Any] | None = None, **spec: Any) -> Path:
    """A folder with a handler of TorchServe's kind that needs no torch."""
    found = {"name": "m", "handler": "mine.py", "torch_free": True, **spec}
    return write_model(folder / "m", {"mine.py": code}, golden, **found)


def told(model: Path) -> str:
    """What is said of a folder that is not built, without a traceback."""
    with pytest.raises(TorchmarError) as caught:
        built(model)
    assert not getattr(caught.value, "details", "")
    return str(caught.value)


# -- model.yaml ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ({"handler": "mine.py:Greetr"}, "no Greetr in mine.py (did you mean Greeter?)"),
        ({"handler": "mine.py:zzz"}, "no zzz in mine.py (it has Greeter)"),
        ({"config": {"batchSize": 4}}, "config.batchSize: it is set by `serving`"),
        ({"config": {"handler": {"a": 1}}}, "write it under `params` alone"),
        (
            {"handler": "torchserve:image_classifier", "params": {"topk": 5}, "torch_free": False},
            "params: torchserve:image_classifier reads none",
        ),
        ({"handler": "torchserve:image_classifier"}, "torch_free: torchserve:image_classifier stands on"),
    ],
)
def test_what_model_yaml_may_not_say(tmp_path: Path, spec: dict[str, Any], wanted: str) -> None:
    """A misspelt class, a setting in two places, parameters that nobody reads, torch for the torch-free."""
    assert wanted in told(plain(tmp_path, GREETER, **spec))


def test_a_base_handler_is_not_torch_free(tmp_path: Path) -> None:
    """Also where the class that stands on it lies in another file."""
    base = "from ts.torch_handler.base_handler import BaseHandler\n\n\nclass Base(BaseHandler):\n    pass\n"
    model = plain(tmp_path, "from common import Base\n\n\nclass Mine(Base):\n    pass\n")
    (model / "common.py").write_text(base)
    assert "those import torch (leave it out, or write a class without BaseHandler)" in told(model)


def test_a_handler_that_loads_torch_is_not_torch_free(tmp_path: Path) -> None:
    """Its worker tells."""
    code = PLAIN.replace(
        "        return None", "        import torch\n        torch.zeros(1)\n        return None"
    )
    assert "leave `torch_free` out of model.yaml, or compute without torch" in told(plain(tmp_path, code))


@pytest.mark.parametrize("weights", ["random", "w.pt"])
def test_weights_for_no_source(tmp_path: Path, weights: str) -> None:
    """--weights is refused where nothing loads them, and an archive claims none."""
    (tmp_path / "w.pt").write_bytes(b"x")
    model = plain(tmp_path)
    with pytest.raises(TorchmarError, match="name the file as `artifact` in model"):
        build(
            load_model(model),
            tmp_path,
            weights=Weights(weights if weights == "random" else str(tmp_path / weights)),
        )
    archive = built(model).archive
    assert "weights" not in json.loads((unpacked(archive.path, tmp_path / "u") / BUILD).read_text())


# -- requirements, files ------------------------------------------------------------------------


@pytest.mark.parametrize("listed", [[], ["numpy>=1"]])
def test_requirements_beside_model_yaml(tmp_path: Path, listed: list[str]) -> None:
    """Taken as the archiver's -r, and said, even where `files` does not list it; the key wins."""
    model = plain(tmp_path, requirements=listed, files=[])
    (model / "requirements.txt").write_text("# mine\npyyaml\n")
    found = built(model)
    assert found.archive.manifest["model"]["requirementsFile"] == "requirements.txt"
    text = (unpacked(found.archive.path, tmp_path / "u") / "requirements.txt").read_text()
    assert text == ("numpy>=1\n" if listed else "# mine\npyyaml\n")
    assert any("requirements.txt" in note for note in found.notes) == (not listed)


ONNX_HANDLER = """\
from ts.torch_handler.base_handler import BaseHandler


class Mine(BaseHandler):
    def handle(self, data, context):
        return [self.model.get_inputs()[0].name] * len(data)
"""


def onnx_of(folder: Path) -> None:
    """x + w, with w in w.bin."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [300]) for name in "xy")
    weights = numpy_helper.from_array(np.ones(300, dtype=np.float32), "w")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    external = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0}
    onnx.save(model, folder / "m.onnx", **external)


def test_external_data_of_an_artifact(tmp_path: Path) -> None:
    """It lies beside the .onnx in the archive, unlisted; where it is missing, that is all that is said."""
    spec = {"handler": "mine.py:Mine", "artifact": "nets/m.onnx", "files": [], "torch_free": False}
    model = plain(tmp_path, ONNX_HANDLER, {"a.txt": "x"}, **spec)
    (model / "nets").mkdir()
    onnx_of(model / "nets")
    archive = built(model).archive
    assert names(archive) >= {"m.onnx", "w.bin"}
    assert archive.manifest["model"]["handler"] == "mine.py"
    (model / "nets" / "w.bin").unlink()
    with pytest.raises(ArchiveError, match=r"nets/m.onnx: put w.bin beside it"):
        built(model, force=True)


def test_external_data_is_packed_once(tmp_path: Path) -> None:
    """A BatchHandler's artifact holds it, so it is no data of the folder."""
    model = plain(
        tmp_path, PARCELS_HANDLER, artifact="m.onnx", torch_free=False, params={"vocabulary": "v.txt"}
    )
    (model / "v.txt").write_text("a b")
    onnx_of(model)
    source = load_model(model)
    assert source.handler.is_batch
    assert [path.name for path in source.packed_files()] == ["mine.py", "v.txt"]


def test_kind_is_told_by_the_class(tmp_path: Path) -> None:
    """What the example of docs/handlers.md imports of `handlers` does not change its kind, and is packed."""
    text = (ROOT / "docs" / "handlers.md").read_text(encoding="utf-8")
    [code] = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "Speller" in block]
    model = plain(tmp_path, code, {"a.txt": "hi"})
    assert not load_model(model).handler.is_batch
    found = built(model)
    assert "handlers/worker/stream.py" in names(found.archive)
    assert found.check is not None
    assert found.check.golden[0].found == {"answer": "hi"}


def test_a_batch_handler_behind_another_file(tmp_path: Path) -> None:
    """A class is followed to the file that it stands on."""
    model = write_parcels(tmp_path, source="load:build")
    (model / "mine.py").rename(model / "common.py")
    (model / "mine.py").write_text("from .common import Parcels\n\n\nclass Mine(Parcels):\n    pass\n")
    assert load_model(model).handler.is_batch


# -- weights that TorchServe's BaseHandler cannot load ------------------------------------------

BASE = "from ts.torch_handler.base_handler import BaseHandler\n\n\nclass Mine(BaseHandler):\n    pass\n"


def eager(folder: Path, what: str, **spec: Any) -> Path:
    """A class on BaseHandler with a file of weights."""
    import torch

    state = {"out.weight": torch.eye(5, 3), "out.bias": torch.zeros(5)}
    saved: Any = {
        "state": state,
        "checkpoint": {"epoch": 3, "model_state_dict": state},
        "other": {"out.weight": torch.eye(4, 3), "out.bias": torch.zeros(4)},
        "whole": torch.nn.Linear(2, 2),
    }
    code = MODULE + ("\n\nclass Second(Tiny):\n    pass\n" if what == "two" else "")
    found = {"name": "m", "handler": "mine.py:Mine", "artifact": "w.pt", "model_file": "net.py", **spec}
    model = write_model(folder / "m", {"mine.py": BASE, "net.py": code}, **found)
    torch.save(saved.get(what, state), model / "w.pt")
    return model


@pytest.mark.parametrize(
    ("what", "spec", "wanted"),
    [
        (
            "state",
            {"model_file": None},
            "name the file with the module's class, as `model_file` in model.yaml",
        ),
        ("checkpoint", {}, "save the state dict alone, by torch.save(module.state_dict(), FILE): it holds"),
        ("two", {}, "leave one class in the file with the module's class"),
        ("other", {}, "give the state dict of Tiny, or change that class: size mismatch"),
        ("whole", {}, "save the state dict alone"),
    ],
)
def test_weights_that_do_not_load(tmp_path: Path, what: str, spec: dict[str, Any], wanted: str) -> None:
    """One line with the remedy, and no traceback."""
    said = told(eager(tmp_path, what, **spec))
    assert wanted in said
    assert "\n" not in said


def test_one_of_several_classes_is_never_called_by_our_file(tmp_path: Path) -> None:
    """What fails is told without the file that torchmar adds."""
    code = (
        GREETER
        + "\n\nclass Other(Greeter):\n    def initialize(self, context):\n        raise KeyError('x')\n"
    )
    with pytest.raises(WorkerLoadError) as caught:
        built(plain(tmp_path, code, handler="mine.py:Other"))
    assert "torchmar_handler" not in str(caught.value)


def test_a_file_in_a_folder_is_told_with_it(tmp_path: Path) -> None:
    """Who asks for a missing package is told by its path in the archive."""
    model = plain(tmp_path, "import parts.tokenizer\n" + PLAIN)
    (model / "parts").mkdir()
    (model / "parts" / "tokenizer.py").write_text("\nimport nothing_of_this_name\n")
    assert "which parts/tokenizer.py line 2 asks for" in told(model)


# -- golden requests ----------------------------------------------------------------------------


def test_why_a_golden_request_fails(tmp_path: Path) -> None:
    """The place and the error, which TorchServe tells nobody: while building, and of an archive."""
    code = PLAIN.replace("    texts =", "    if data[0]['body'] == 'bad': {}['key']\n    texts =")
    model = plain(tmp_path, code, {"a.txt": "bad"})
    assert "mine.py line 4: KeyError: 'key'; answered with 503" in told(model)
    (model / "golden" / "a.txt").write_text("good")
    archive = built(model).archive
    (tmp_path / "bad.txt").write_text("bad")
    check = check_archive(archive.path, requests=[tmp_path / "bad.txt"])
    assert "request bad.txt: mine.py line 4: KeyError: 'key'" in check.reason


def test_why_a_batch_handler_fails_is_read_from_its_log(tmp_path: Path) -> None:
    """It writes its traceback as an indented text."""
    text = '\n    File "/m/handlers/base.py", line 7, in f\n      g()\n'
    text += '    File "/m/model_source/h.py", line 2, in g\n'
    text += "  ValueError: what\n  more of it"
    assert cause_of(text, Path("/m")) == "model_source/h.py line 2: ValueError: what"
    assert cause_of("\nKeyError: 1", Path("/m")) == "KeyError: 1"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1764300000.25, 1764300002.5, False),
        (12345.6, 12347.9, False),
        (0.00123, 0.00151, False),
        (0.5, 0.5000001, True),
        (131072.0, 131072.01, True),
        (3, 4, False),
        ("a", "a", True),
    ],
)
def test_answered_the_same_again(one: Any, other: Any, same: bool) -> None:
    """Clocks and durations are told from what rounds; who says how close is taken at their word."""
    first, second = ({"answer": {"rows": [value]}} for value in (one, other))
    assert is_repeated(first, second, CLOSE) == same
    assert is_repeated(first, second, Comparator("close", {"tolerance": 1.0})) or isinstance(one, int)


def test_an_answer_by_the_clock_is_no_golden_one(tmp_path: Path) -> None:
    """Within the tolerance for years, and yet refused at once."""
    code = "import time\n" + PLAIN.replace('f"hello {text}"', '{"at": time.time()}')
    assert "leave w.bin out of `golden`" in told(plain(tmp_path, code, {"w.bin": "world"}))


# -- a whole pickled module ---------------------------------------------------------------------


@pytest.mark.parametrize("where", ["net", "__main__"])
def test_a_pickled_module_whose_class_is_elsewhere(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file is to be put beside model.yaml; a class of the script that saved it needs a file at all."""
    import types

    import torch

    module = types.ModuleType("net")
    exec(PARCELS_MODULE, module.__dict__)
    module.Net.__module__ = where
    if where == "net":
        monkeypatch.setitem(sys.modules, "net", module)
    else:
        monkeypatch.setattr(sys.modules["__main__"], "Net", module.Net, raising=False)
    model = write_parcels(tmp_path, artifact="whole.pt", allow_pickle=True)
    torch.save(module.build(), model / "whole.pt")
    monkeypatch.undo()
    said = refused(model, TorchmarError)
    wanted = f"put net.py into {model}, or install" if where == "net" else "move class Net from the script"
    assert wanted in said


# -- labels, means, checkpoints -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ({"0": "cat", "1": "dog"}, ["cat", "dog"]),
        ({"1": "dog", "0": "cat"}, ["cat", "dog"]),
        ({"0": ["n02123045", "tabby"]}, ["tabby"]),
        ({"dog": 1, "cat": 0}, ["cat", "dog"]),
        ({"dog": 1}, "expected the indices 0 to 0, each once: 0 is missing"),
        ({"dog": 0, "cat": 0}, "expected the indices 0 to 1, each once: 1 is missing"),
        ({"1": "cat", "2": "dog"}, "0 is missing"),
        ({"a": "cat"}, "0 is missing"),
        ({"0": 1.5}, "expected a list of labels, or"),
        ({}, "holds no labels"),
    ],
)
def test_labels_as_people_have_them(tmp_path: Path, content: Any, wanted: Any) -> None:
    """TorchServe's index_to_name and torchvision's class_to_idx, with every index once."""
    (tmp_path / "labels.json").write_text(json.dumps(content))
    if isinstance(wanted, list):
        assert read_labels("labels.json", tmp_path) == wanted
        return
    with pytest.raises(ValueError, match=re.escape(wanted)):
        read_labels("labels.json", tmp_path)


def test_means_of_pixels_up_to_255(tmp_path: Path) -> None:
    """They would give wrong answers without a word: refused, with the values to write."""
    params = {"size": [8, 8], "mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
    spec: dict[str, Any] = {
        "name": "m",
        "handler": "image_classifier",
        "artifact": "m.onnx",
        "params": params,
    }
    said = told(write_model(tmp_path / "m", {"m.onnx": ""}, **spec))
    assert "params.mean: found [123.675, 116.28, 103.53], of pixels up to 255" in said
    assert "write [0.485, 0.456, 0.406], and divide mean and std alike" in said


def test_several_state_dicts_that_fit(tmp_path: Path) -> None:
    """The remedy needs the file alone."""
    import torch

    module = torch.nn.Linear(2, 2)
    torch.save({"model": module.state_dict(), "ema": module.state_dict()}, tmp_path / "whole.pt")
    with pytest.raises(TorchmarError, match=r"torch\.save\(torch\.load\('whole\.pt'\)\['model'\], FILE\)"):
        load_weights(module, tmp_path / "whole.pt")


# -- what the server's Python must have ---------------------------------------------------------


def test_torch_that_is_missing(tmp_path: Path) -> None:
    """The key is named where torchmar built the archive, and a handler may do without."""
    error = ModuleNotFoundError("No module named 'torch'", name="torch")
    assert "torch_free" not in str(to_install(error, tmp_path))
    (tmp_path / "MAR-INF").mkdir()
    (tmp_path / BUILD).write_text("{}")
    assert "or write `torch_free: true` in model.yaml" in str(to_install(error, tmp_path))
    (tmp_path / "sitecustomize.py").touch()
    assert "torch_free" not in str(to_install(error, tmp_path))


def test_captum_that_is_missing(tmp_path: Path) -> None:
    """The line leaves torch as it is."""
    said = str(to_install(ModuleNotFoundError("No module named 'captum'", name="captum"), tmp_path))
    assert "-m pip install matplotlib packaging tqdm && " in said
    assert "-m pip install --no-deps captum`" in said


@pytest.mark.parametrize(
    ("handler", "code", "wanted"),
    [
        ("image_classifier", "import torch\n", ("captum",)),
        ("mine.py", "from ts.torch_handler.vision_handler import VisionHandler\n", ("captum",)),
        ("mine.py", "import torch, PIL\nfrom ts.torch_handler.base_handler import BaseHandler\n", ("PIL",)),
    ],
)
def test_what_an_adopted_archive_needs(
    tmp_path: Path, handler: str, code: str, wanted: tuple[str, ...]
) -> None:
    """captum of TorchServe's handlers; torch is told by the check, for an import alone loads nothing."""
    (tmp_path / "mine.py").write_text(code)
    assert _imports(tmp_path, handler) == wanted


# -- what the commands print --------------------------------------------------------------------


def test_what_archive_and_verify_print(tmp_path: Path) -> None:
    """Golden answers as they were recorded; without any, the key that names the requests."""
    model = plain(tmp_path, PLAIN, {"a.txt": "you"})
    done = torchmar("archive", model, "--store", tmp_path)
    assert (done.returncode, 'golden a.txt → "hello you"' in done.stdout) == (0, True)
    (model / "model.yaml").write_text((model / "model.yaml").read_text().replace("golden: golden\n", ""))
    assert torchmar("archive", model, "--store", tmp_path, "--replace").returncode == 0
    done = torchmar("verify", tmp_path / "m-1.0.mar")
    assert done.returncode == 3
    assert "to do: name a folder of requests as `golden` in model.yaml" in done.stdout


@pytest.mark.parametrize("found", [True, False])
def test_a_folder_without_a_model_yaml(tmp_path: Path, found: bool) -> None:
    """Whether there is such a folder is told, in words."""
    folder = tmp_path if found else tmp_path / "nowhere"
    with pytest.raises(TorchmarError) as caught:
        load_model(folder)
    assert ("no model.yaml in it" if found else "no such file or folder") in str(caught.value)
    assert str(folder) in str(caught.value)


def test_labels_are_counted_before_the_module_is_loaded_again(tmp_path: Path) -> None:
    """What is wrong with params is told before anything that takes long."""
    code = PARCELS_MODULE.replace("def build():", "def build():\n    print('loaded', file=open(LOG, 'a'))")
    examine = "\n    def examine(self, outputs, *, squashed):\n        raise ValueError('too many')\n"
    model = write_parcels(tmp_path, source="load:build")
    (model / "load.py").write_text(f"LOG = {str(tmp_path / 'log')!r}\n{code}")
    (model / "mine.py").write_text(PARCELS_HANDLER + examine)
    assert "too many" in refused(model, TorchmarError)
    assert (tmp_path / "log").read_text() == "loaded\n"
