"""Handlers of TorchServe's kind: packed as torch-model-archiver does, loaded, and their answers recorded."""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.any_model import PLAIN, write_model
from torchmar.archive import Built, build
from torchmar.errors import ArchiveExists, TorchmarError
from torchmar.mar import GOLDEN_ANSWERS, Archive, verify
from torchmar.spec import load_model
from torchmar.worker import Request, Worker

from .test_any_model import refused, unpacked

Load = Callable[..., Worker]


def built(model: Path, **options: Any) -> Built:
    """The archive of a model's folder, beside it."""
    return build(load_model(model), model.parent / "store", **options)


def names(archive: Archive) -> set[str]:
    """The files of an archive."""
    return {file.name for file in archive.files}


def answers(archive: Archive, folder: Path) -> dict[str, Any]:
    """What is expected of its golden requests."""
    found: dict[str, Any] = json.loads((unpacked(archive.path, folder) / GOLDEN_ANSWERS).read_text())
    return {name: expected["answer"] for name, expected in found.items()}


# -- a class on BaseHandler ---------------------------------------------------------------------

DOUBLER = """\
import json
from pathlib import Path

import torch
from ts.torch_handler.base_handler import BaseHandler


class Doubler(BaseHandler):
    def initialize(self, context):
        super().initialize(context)
        folder = Path(context.system_properties["model_dir"])
        self.names = json.loads((folder / "assets" / "names.json").read_text())
        self.said = context.model_yaml_config["handler"]["said"]
        assert context.model_yaml_config["own"] == {"deep": [1, 2]}

    def preprocess(self, data):
        return torch.tensor([row.get("body")["x"] for row in data], dtype=torch.float32)

    def postprocess(self, output):
        rows = [{"name": self.names[int(row.argmax())], "row": row.tolist()} for row in output]
        return [{**row, "said": self.said} for row in rows]


class Other(Doubler):
    pass
"""


def test_a_class_on_base_handler(tmp_path: Path, model_worker: Load) -> None:
    """It is one of two in its file: TorchScript, files in folders, settings, requirements come along."""
    import torch

    files = {"mine.py": DOUBLER, "assets/names.json": '["a", "b", "c"]', "unused.txt": "not asked for"}
    spec = {
        "handler": "mine.py:Other",
        "artifact": "weights/double.pt",
        "files": ["assets"],
        "params": {"said": "yes"},
        "config": {"own": {"deep": [1, 2]}},
        "requirements": ["numpy>=1"],
        "serving": {"batchSize": 4},
    }
    model = write_model(tmp_path / "double", files, {"one.json": {"x": [1, 3, 2]}}, name="double", **spec)
    (model / "weights").mkdir()

    class Double(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    torch.jit.script(Double()).save(str(model / "weights" / "double.pt"))
    archive = built(model).archive
    assert names(archive) >= {"mine.py", "double.pt", "assets/names.json", "requirements.txt"}
    assert "unused.txt" not in names(archive)
    assert (archive.config["handler"], archive.config["batchSize"]) == ({"said": "yes"}, 4)
    expected = {"name": "b", "row": [2.0, 6.0, 4.0], "said": "yes"}
    assert answers(archive, tmp_path) == {"one.json": expected}
    assert verify(archive.path).problems() == []
    sent = [Request.body(json.dumps({"x": x}).encode(), "application/json") for x in ([1, 3, 2], [0, 0, 5])]
    assert [each.json()["name"] for each in model_worker(archive.path).predict(sent)] == ["b", "c"]


# -- others -------------------------------------------------------------------------------------

WITH_A_CLASS = """\
class Greeter:
    def initialize(self, context):
        self.word = context.model_yaml_config["handler"]["word"]

    def handle(self, data, context):
        return [f"{self.word} {bytes(row['body']).decode()}" for row in data]
"""


@pytest.mark.parametrize(
    ("handler", "code", "params", "answer"),
    [
        ("mine.py", WITH_A_CLASS, {"word": "hi"}, "hi world"),
        ("mine.py:Greeter", WITH_A_CLASS, {"word": "hi"}, "hi world"),
        ("mine.py", PLAIN, {}, "hello world"),
        ("mine.py:handle", PLAIN, {}, "hello world"),
        ("mine.py:serve", PLAIN.replace("def handle", "def serve"), {}, "hello world"),
    ],
)
def test_a_class_or_a_function(
    tmp_path: Path, handler: str, code: str, params: dict[str, str], answer: str
) -> None:
    """Named or found, its answer is recorded, and its worker starts without torch where that is asked for."""
    spec = {"handler": handler, "params": params, "torch_free": True, "files": []}
    model = write_model(tmp_path / "greeter", {"mine.py": code}, {"w.bin": "world"}, name="greeter", **spec)
    found = built(model)
    assert answers(found.archive, tmp_path) == {"w.bin": answer}
    assert found.check is not None
    assert not any("loads torch" in caveat for caveat in found.check.caveats)
    assert {"sitecustomize.py", "handlers/worker/lazy_torch.py"} <= names(found.archive)


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("import nothing_of_this_name\n", "No module named 'nothing_of_this_name'"),
        ("def handle(data, context)\n", "SyntaxError"),
        ("def handle(data, context):\n    return data and 1 / 0\n", "golden request w.bin"),
        ("def handle(data, context):\n    return data and ['a', 'b']\n", "golden request w.bin"),
    ],
)
def test_one_that_does_not_work_is_not_packed(tmp_path: Path, code: str, wanted: str) -> None:
    """What its worker says is told."""
    spec = {"handler": "mine.py", "torch_free": True, "files": []}
    model = write_model(tmp_path / "broken", {"mine.py": code}, {"w.bin": "world"}, name="broken", **spec)
    assert wanted in refused(model, TorchmarError)


def test_answers_that_differ_each_time_are_told(tmp_path: Path) -> None:
    """Nothing can be expected of them: it says what to do about it."""
    code = "import time\n" + PLAIN.replace("hello {text}", "{time.time_ns()}")
    spec = {"handler": "mine.py", "torch_free": True, "files": []}
    model = write_model(tmp_path / "clock", {"mine.py": code}, {"w.bin": "world"}, name="clock", **spec)
    assert "leave w.bin out of `golden`, or choose `compare`" in refused(model, TorchmarError)


# -- what torch-model-archiver's integration tests pack -----------------------------------------

MODULE = """\
import torch


class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.out = torch.nn.Linear(3, 5)

    embedding = None  # for the handler of texts, which shows it to captum

    def forward(self, x):
        return self.out(x.mean((2, 3)))
"""
# Of these stock handlers import one class or function while they load, and call it for nothing asked here.
STUBS = {
    "captum/__init__.py": "",
    "captum/attr.py": "class IntegratedGradients:\n    def __init__(self, *_, **__): pass\n"
    "LayerIntegratedGradients = TokenReferenceBase = IntegratedGradients\n",
    "torchtext/__init__.py": "",
    "torchtext/data/__init__.py": "",
    "torchtext/data/utils.py": "def get_tokenizer(_): return str.split\nngrams_iterator = None\n",
}
STUBS = {
    name: code for name, code in STUBS.items() if importlib.util.find_spec(name.partition("/")[0]) is None
}
LABELS = json.dumps({str(number): f"class {number}" for number in range(5)})
READS = """\
import json
from pathlib import Path


class Reader:
    def initialize(self, context):
        self.folder, self.model = Path(context.system_properties["model_dir"]), context.manifest["model"]

    def handle(self, data, context):
        paths = (path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file())
        names = sorted(map(str, (path for path in paths if not {"MAR-INF", "__pycache__"} & {*path.parts})))
        return [{"files": names, "model": self.model}] * len(data)
"""


def regular(folder: Path, **spec: Any) -> Path:
    """A handler, a module's file, weights and an extra file."""
    files = {"service.py": READS, "test_model.py": MODULE, "weights.pt": "x", "index_to_name.json": LABELS}
    files |= {"dummy-artifacts.txt": "x", "dir/1.py": ""}
    found = {
        "name": "model",
        "handler": "service.py",
        "model_file": "test_model.py",
        "artifact": "weights.pt",
        "files": ["index_to_name.json"],
        "torch_free": True,
        **spec,
    }
    return write_model(folder / "model", files, {"ask.txt": "what do you hold?"}, **found)


def stock(folder: Path, handler: str, files: list[str]) -> Path:
    """A stock handler with a state dict and its module's file."""
    import torch
    from PIL import Image

    written = {"test_model.py": MODULE, "index_to_name.json": LABELS, **STUBS}
    spec: dict[str, Any] = {
        "handler": f"torchserve:{handler}",
        "model_file": "test_model.py",
        "artifact": "weights.pt",
    }
    listed = ["index_to_name.json", *files, *sorted({name.partition("/")[0] for name in STUBS})]
    model = write_model(folder / "model", written, name="model", **spec, files=listed)
    state = {"out.weight": torch.eye(5, 3), "out.bias": torch.zeros(5)}
    torch.save(state, model / "weights.pt")
    torch.save({"a": 1}, model / "source_vocab.pt")
    if handler == "image_classifier":
        (model / "golden").mkdir()
        red = io.BytesIO()
        Image.new("RGB", (8, 8), (255, 0, 0)).save(red, "PNG")
        (model / "golden" / "red.png").write_bytes(red.getvalue())
        (model / "model.yaml").write_text((model / "model.yaml").read_text() + "golden: golden\n")
    return model


REGULAR = {"service.py", "test_model.py", "weights.pt", "index_to_name.json"}


def packaging_mar(folder: Path) -> None:
    """A handler, a module's file, weights, extra files: all lie where the handler does."""
    archive = built(regular(folder)).archive
    [said] = answers(archive, folder).values()
    assert set(said["files"]) >= REGULAR
    named = {"handler": "service.py", "modelFile": "test_model.py", "serializedFile": "weights.pt"}
    assert named.items() <= said["model"].items()


def packaging_noarchive(folder: Path) -> None:
    """A folder that is served as it lies there."""
    archive = built(regular(folder), directory=True).archive
    assert archive.path.is_dir()
    assert {path.name for path in archive.path.iterdir()} >= REGULAR


def packaging_several_extra_files(folder: Path) -> None:
    """As its .tgz, which torchmar neither writes nor reads: several files, one of them in a folder."""
    files = ["index_to_name.json", "dummy-artifacts.txt", "dir"]
    assert names(built(regular(folder, files=files)).archive) >= {*REGULAR, "dummy-artifacts.txt", "dir/1.py"}


def packaging_again(folder: Path) -> None:
    """Of other contents, it is refused; of the same it is left as it is, where the archiver refuses."""
    model = regular(folder)
    built(model)
    assert built(model).was_there
    (model / "index_to_name.json").write_text("{}")
    with pytest.raises(ArchiveExists, match="replace"):
        built(model)


def packaging_again_with_force(folder: Path) -> None:
    """It is replaced."""
    model = regular(folder)
    before = built(model).archive
    (model / "index_to_name.json").write_text("{}")
    assert built(model, force=True).archive.contents_sha256 != before.contents_sha256


def packaging_versions(folder: Path) -> None:
    """Each is a file of its own; what TorchServe could not manage is refused."""
    for version in ("1.0", "2.0rc1"):
        assert built(regular(folder, version=version)).archive.path.name == f"model-{version}.mar"
    with pytest.raises(TorchmarError, match="version"):
        built(regular(folder, version="1/2"))


def packaging_requirements_and_config(folder: Path) -> None:
    """The manifest names both."""
    archive = built(regular(folder, requirements=["numpy>=1"], config={"parallelType": "none"})).archive
    [said] = answers(archive, folder).values()
    assert said["model"]["requirementsFile"] == "requirements.txt"
    assert said["model"]["configFile"] == "model-config.yaml"
    assert archive.config["parallelType"] == "none"


def image_classifier_mar(folder: Path) -> None:
    """TorchServe's own handler; what it answers is recorded."""
    archive = built(stock(folder, "image_classifier", [])).archive
    [said] = answers(archive, folder).values()
    assert max(said, key=said.get) == "class 0"
    assert archive.manifest["model"]["handler"] == "image_classifier"


def text_classifier_mar(folder: Path) -> None:
    """TorchServe's own handler with its vocabulary; it is loaded, and nothing asked."""
    archive = built(stock(folder, "text_classifier", ["source_vocab.pt"])).archive
    assert "source_vocab.pt" in names(archive)


def text_no_source_vocab(folder: Path) -> None:
    """The handler does not load without it: refused, with what is missing."""
    assert "source_vocab" in refused(stock(folder, "text_classifier", []), TorchmarError)


TEN = (
    packaging_mar,
    packaging_noarchive,
    packaging_several_extra_files,
    packaging_again,
    packaging_again_with_force,
    packaging_versions,
    packaging_requirements_and_config,
    image_classifier_mar,
    text_classifier_mar,
    text_no_source_vocab,
)


@pytest.mark.parametrize("case", TEN, ids=lambda case: case.__name__)
def test_archivers_ten_cases(tmp_path: Path, case: Callable[[Path], None]) -> None:
    """Each thing that torch-model-archiver's integration tests pack is packed by torchmar, and loaded."""
    case(tmp_path)


def test_what_a_stock_handler_lacks_is_told(tmp_path: Path) -> None:
    """By the name of the package."""
    if "captum/attr.py" not in STUBS:
        pytest.skip("captum is installed here: a stock image_classifier lacks nothing")
    model = stock(tmp_path, "image_classifier", [])
    text = (model / "model.yaml").read_text().replace("- captum\n", "").replace("golden: golden\n", "")
    (model / "model.yaml").write_text(text)
    assert "captum" in refused(model, TorchmarError)
