"""Models of any kind: files that exist already, several parts, and whatever their modules take and give."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.any_model import PARCELS_HANDLER, PARCELS_MODULE, write_model, write_parcels
from tests.conftest import MakeOnce
from torchmar.archive import Built, build
from torchmar.errors import ExportError
from torchmar.export import Weights, build_artifacts
from torchmar.mar import GOLDEN_ANSWERS
from torchmar.spec import load_model
from torchmar.worker import Request, Worker

Load = Callable[..., Worker]


def built(model: Path, **overrides: Any) -> Built:
    """The archive of a model's folder, beside it."""
    return build(load_model(model, overrides), model.parent / "store")


def asked(worker: Worker, *requests: Any) -> list[Any]:
    """What a batch of JSON requests is answered with: the content, or the status."""
    bodies = [Request.body(json.dumps(each).encode(), "application/json") for each in requests]
    found = worker.predict(bodies)
    return [each.json() if each.status == 200 else each.status for each in found]


# -- a file that exists already -----------------------------------------------------------------


@pytest.fixture(scope="module")
def files(make_once: MakeOnce) -> Path:
    """The module of the parcels in each format that torch and onnx write it in."""
    return make_once("parcels-files", _write_each)


def _write_each(folder: Path) -> None:
    import onnx
    import torch

    (folder / "load.py").write_text(PARCELS_MODULE)
    sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module("load").build().eval()
        inputs = torch.tensor([[1, 2, 3], [4, 0, 0]]), torch.tensor([1.0, 2.0])
        free = torch.export.Dim.DYNAMIC
        program = torch.export.export(module, inputs, dynamic_shapes=({0: free, 1: free}, {0: free}))
        torch.export.save(program, folder / "m.pt2")
        torch.onnx.export(program, (), folder / "m.onnx", dynamo=True, verbose=False, external_data=False)
        external = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
        onnx.save(onnx.load(folder / "m.onnx"), folder / "ext.onnx", **external)
        with torch.no_grad():
            torch.jit.trace(module, inputs, strict=False).save(str(folder / "ts.pt"))
        torch.save(module, folder / "whole.pt")
        torch.save(module.state_dict(), folder / "state.pth")
    finally:
        sys.path.remove(str(folder))
        del sys.modules["load"]


def parcels_of(folder: Path, files: Path, *names: str, **spec: Any) -> Path:
    """A model's folder with these of the files."""
    model = write_parcels(folder / "parcels", **spec)
    for name in names:
        shutil.copyfile(files / name, model / name)
    return model


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("m.onnx",), "onnx"),
        (("ext.onnx", "weights.bin"), "onnx"),
        (("m.pt2",), "exported"),
        (("ts.pt",), "torchscript"),
        (("whole.pt", "load.py"), "pickled"),
    ],
    ids=lambda found: found if isinstance(found, str) else found[0],
)
def test_a_file_is_served_as_it_is(
    files: Path, tmp_path: Path, model_worker: Load, names: tuple[str, ...], kind: str
) -> None:
    """Each format is known by what is in it, and answers as the module does, at other lengths, too."""
    allowed = {"allow_pickle": True} if kind == "pickled" else {}
    archive = built(parcels_of(tmp_path, files, *names, artifact=names[0], **allowed)).archive
    assert archive.config["handler"]["models"]["model"]["format"] == kind
    assert (archive.build or {}).get("allow_pickle") == (True if allowed else None)
    golden = json.loads((unpacked(archive.path, tmp_path) / GOLDEN_ANSWERS).read_text())
    assert golden["one.json"]["answer"]["longest"] == 3
    worker = model_worker(archive.path)
    long = {"parcels": list("abcdabcd"), "weight": 1}
    both, wrong, alone = asked(worker, {"instances": [long, {"parcels": ["b"], "weight": 1}]}, {}, long)
    assert wrong == 400
    assert [row["longest"] for row in both["predictions"]] == [4, 2]
    assert alone["mean"] == pytest.approx(both["predictions"][0]["mean"], abs=1e-5)


def unpacked(path: Path, folder: Path) -> Path:
    """A folder with the files of a .mar."""
    target = folder / "unpacked"
    shutil.unpack_archive(path, target, "zip")
    return target


def refused(model: Path, kind: type[Exception] = ExportError) -> str:
    """Why it is not built; nothing is left in the store."""
    with pytest.raises(kind) as found:
        built(model)
    store = model.parent / "store"
    assert not store.exists() or list(store.iterdir()) == []
    return str(found.value)


def test_a_pickle_is_loaded_only_where_that_is_allowed(files: Path, tmp_path: Path) -> None:
    """Nothing of it has run."""
    said = refused(parcels_of(tmp_path, files, "whole.pt", "load.py", artifact="whole.pt"))
    assert "write `allow_pickle: true`: whole.pt is a pickle with objects" in said


def test_a_state_dict_needs_its_module(files: Path, tmp_path: Path) -> None:
    """It is told which key is missing."""
    said = refused(parcels_of(tmp_path, files, "state.pth", artifact="state.pth"))
    assert "write `source: file:function` for the module that state.pth is the state dict of" in said


def test_a_state_dict_with_its_module(files: Path, tmp_path: Path, model_worker: Load) -> None:
    """Its numbers are those of the file, and not those that the module begins with."""
    import torch

    model = parcels_of(tmp_path, files, "state.pth", source="load:build", artifact="state.pth")
    table = torch.full((10, 4), 0.5)
    table[0] = 0  # what short rows are filled up with
    torch.save({"table.weight": table}, model / "state.pth")
    [answer] = asked(model_worker(built(model).archive.path), {"parcels": ["a"], "weight": 1})
    assert answer["mean"] == [0.5] * 4


def test_external_data_that_is_missing(files: Path, tmp_path: Path) -> None:
    """The file that is missing is named."""
    said = refused(parcels_of(tmp_path, files, "ext.onnx", artifact="ext.onnx"))
    assert "weights.bin" in said


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *(
            (name, damage)
            for name in ("m.onnx", "m.pt2", "ts.pt", "whole.pt")
            for damage in ("half", "empty")
        ),
        *((name, "turned") for name in ("m.pt2", "ts.pt", "whole.pt")),  # ONNX has no checksums
    ],
)
def test_a_damaged_file(files: Path, tmp_path: Path, name: str, damage: str) -> None:
    """One sentence with the file's name, whatever was lost."""
    model = parcels_of(tmp_path, files, name, "load.py", artifact=name, allow_pickle=True)
    content = bytearray((files / name).read_bytes())
    if damage == "turned":
        middle = len(content) // 2
        content[middle : middle + 64] = bytes(byte ^ 0xFF for byte in content[middle : middle + 64])
    (model / name).write_bytes(content[: {"half": len(content) // 2, "empty": 0}.get(damage, len(content))])
    said = refused(model)
    assert name in said
    assert "\n" not in said.strip()


@pytest.mark.parametrize("content", [b"hello", b"PK\x05\x06" + bytes(18), b"\x89HDF\r\n"])
def test_an_unknown_file(tmp_path: Path, content: bytes) -> None:
    """It is told what may be given."""
    model = write_parcels(tmp_path / "parcels", artifact="strange.bin")
    (model / "strange.bin").write_bytes(content)
    assert "strange.bin" in refused(model)


def test_a_graph_with_another_number_of_inputs(files: Path, tmp_path: Path) -> None:
    """Both lists of names are shown."""
    model = parcels_of(tmp_path, files, "m.onnx", artifact="m.onnx")
    text = PARCELS_HANDLER.replace(
        'return {"ids": ids, "weight"', 'return {"ids": ids, "more": ids, "weight"'
    )
    (model / "mine.py").write_text(text)
    said = refused(model)
    assert "the model takes ids, weight; the handler gives ids, more, weight" in said


def test_a_graph_with_outputs_of_other_names(files: Path, tmp_path: Path) -> None:
    """`encode` asks for what is not there: what is there is shown."""
    model = parcels_of(tmp_path, files, "m.onnx", artifact="m.onnx")
    names = '("total", "longest", "mean")'
    (model / "mine.py").write_text(PARCELS_HANDLER.replace(names, '("sum", "top", "average")'))
    assert "KeyError: 'total' (the module gives sum, top, average)" in refused(model)


# -- what a module takes and gives --------------------------------------------------------------

ODD_HANDLER = """\
from dataclasses import dataclass

import numpy as np
from handlers.base import BatchHandler, Decoded, Refused
from handlers.requests import content_of, rows_of


@dataclass(frozen=True)
class Params:
    pass


class Odd(BatchHandler[Params]):
    def example(self):
        on, n = np.array([True, False, True]), np.array([1, 2], np.int32)
        return {"x": np.zeros(3, np.float64), "on": on, "n": n}

    def decode(self, request):
        rows, listed = rows_of(content_of(request, "numbers", "x, on, n"), 8)
        kinds = {"x": np.float64, "on": np.bool_, "n": np.int32}
        try:
            return Decoded([{k: np.array(row[k], kinds[k]) for k in kinds} for row in rows], listed=listed)
        except (KeyError, TypeError, ValueError) as error:
            raise Refused(str(error)) from None

    def encode(self, output, about):
        return {name: [str(array.dtype), array.tolist()] for name, array in output.items()}
"""
ODD_MODULE = """\
import torch


class Dict(torch.nn.Module):
    def forward(self, n, x, on):  # in another order than the handler has them
        half = (x[:, :2] * 2).to(torch.bfloat16)
        return {"double": x * 2, "any": on.any(1), "whole": {"count": n.sum(1), "half": half}}


class Tuple(Dict):
    def forward(self, n, x, on):
        found = super().forward(n, x, on)
        return found["double"], (found["any"], [found["whole"]["count"]])


def as_dict():
    return Dict()


def as_tuple():
    return Tuple()
"""
ODD = {"x": [0.25, 1e-12, 3], "on": [False, True, False], "n": [7, -2]}


@pytest.mark.parametrize(
    ("made", "runtime"), [("as_dict", "onnx"), ("as_dict", "eager"), ("as_tuple", "onnx")]
)
def test_dtypes_and_nested_outputs(tmp_path: Path, model_worker: Load, made: str, runtime: str) -> None:
    """float64, bool and int32 go in and come out as they are, bfloat16 as float32; each output has a name."""
    files = {"mine.py": ODD_HANDLER, "load.py": ODD_MODULE}
    spec = {"handler": "mine.py", "source": f"load:{made}", "runtime": runtime}
    model = write_model(tmp_path / "odd", files, {"one.json": ODD}, name="odd", **spec)
    [answer] = asked(model_worker(built(model).archive.path), ODD)
    double, any_, count = ["float64", [0.5, 2e-12, 6.0]], ["bool", True], ["int64", 5]
    if made == "as_dict":
        half = ["float32", [0.5, pytest.approx(2e-12, rel=0.01)]]
        assert answer == {"double": double, "any": any_, "whole.count": count, "whole.half": half}
    else:
        assert answer == {"output_0": double, "output_1.0": any_, "output_1.1.0": count}


def test_an_instance_that_cannot_be_batched_fails_alone(tmp_path: Path, model_worker: Load) -> None:
    """One of another length is inferred apart; the model refuses it, and its neighbours get their answers."""
    files = {"mine.py": ODD_HANDLER, "load.py": ODD_MODULE}
    spec = {"handler": "mine.py", "source": "load:as_dict"}
    model = write_model(tmp_path / "odd", files, {"one.json": ODD}, name="odd", **spec)
    worker = model_worker(built(model).archive.path)
    longer = {**ODD, "x": [1.0, 2.0, 3.0, 4.0]}  # the graph has three, fixed
    first, failed, last, wrong = asked(worker, ODD, longer, ODD, {"x": 1})
    assert first == last
    assert first["any"] == ["bool", True]
    assert (failed, wrong) == (500, 400)


def test_what_fails_in_a_padded_batch_is_tried_alone(files: Path, tmp_path: Path, model_worker: Load) -> None:
    """One word is beyond the table: its whole batch fails, and then it alone."""
    model = parcels_of(tmp_path, files, "m.onnx", artifact="m.onnx")
    (model / "vocabulary.txt").write_text("a b c d e f g h i j k l")
    worker = model_worker(built(model).archive.path)
    good, beyond = {"parcels": ["b", "a"], "weight": 1}, {"parcels": ["l"], "weight": 1}
    first, failed, last = asked(worker, good, beyond, good)
    assert failed == 500
    assert first["longest"] == last["longest"] == 2


# -- several parts ------------------------------------------------------------------------------

TRANSLATOR = """\
from dataclasses import dataclass

import numpy as np
from handlers.base import BatchHandler, Decoded, Refused
from handlers.requests import content_of


@dataclass(frozen=True)
class Params:
    longest: int = 4


class Translator(BatchHandler[Params]):
    dynamic = {"ids": {1: "letters"}}

    def example(self):
        return {"ids": np.array([1, 2, 3], np.int64)}

    def decode(self, request):
        text = content_of(request, "a word", "send text")
        if not isinstance(text, str) or not text.isascii() or not text:
            raise Refused("send a word")
        return Decoded([{"ids": np.frombuffer(text.encode(), np.uint8).astype(np.int64) % 16}])

    def infer(self, batch):
        state = self.models["encoder"](batch)["state"]
        token, said = np.zeros(len(state), np.int64), []
        for _ in range(self.params.longest):
            found = self.models["decoder"]({"token": token, "state": state})
            token, state = found["scores"].argmax(1), found["state"]
            said.append(token)
        return {"tokens": np.stack(said, 1)}

    def encode(self, output, about):
        return output["tokens"].tolist()
"""
TWO_PARTS = """\
import torch


class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.table, self.gru = torch.nn.Embedding(16, 8), torch.nn.GRU(8, 8, batch_first=True)

    def forward(self, ids):
        return {"state": self.gru(self.table(ids))[1][0]}


class Decoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.table, self.cell = torch.nn.Embedding(16, 8), torch.nn.GRUCell(8, 8)
        self.out = torch.nn.Linear(8, 16)

    def forward(self, token, state):
        state = self.cell(self.table(token), state)
        return {"scores": self.out(state), "state": state}


def encoder():
    return Encoder()


def decoder():
    return Decoder()
"""


def test_an_encoder_and_a_decoder(tmp_path: Path, model_worker: Load) -> None:
    """Each part is an artifact of its own, asked as often as the handler asks; other lengths are answered."""
    files = {"mine.py": TRANSLATOR, "load.py": TWO_PARTS}
    spec = {"handler": "mine.py", "source": {"encoder": "load:encoder", "decoder": "load:decoder"}}
    model = write_model(tmp_path / "two", files, {"one.txt": "hello"}, name="two", **spec)
    archive = built(model).archive
    assert {file.name for file in archive.files} >= {"encoder.onnx", "decoder.onnx"}
    worker = model_worker(archive.path)
    sent = [Request.body(text.encode(), "text/plain") for text in ("hello", "", "a longer word than those")]
    short, empty, long = worker.predict(sent)
    assert [len(each.json()) for each in (short, long)] == [4, 4]
    assert empty.status == 400
    [again] = worker.predict(sent[2:])
    assert again.json() == long.json()


def test_an_axis_that_varies_and_is_not_named(tmp_path: Path) -> None:
    """The line to write is told; eager modules need none."""
    files = {
        "mine.py": TRANSLATOR.replace('    dynamic = {"ids": {1: "letters"}}\n', ""),
        "load.py": TWO_PARTS,
    }
    spec = {"handler": "mine.py", "source": {"encoder": "load:encoder", "decoder": "load:decoder"}}
    said = refused(write_model(tmp_path / "two", files, {"one.txt": "hello"}, name="two", **spec))
    assert 'write `dynamic = {"ids": {1: "length"}}` in its handler: axis 1 of ids has 3, 5' in said


# -- what is fetched, and what is compiled ------------------------------------------------------


def test_prepare_makes_what_the_folder_lacks(tmp_path: Path) -> None:
    """It is called before anything else, with the folder; what it made is packed."""
    model = write_parcels(tmp_path / "parcels", source="load:build", prepare="fetch:words")
    (model / "vocabulary.txt").unlink()
    code = "def words(folder):\n    (folder / 'vocabulary.txt').write_text('a b c')\n"
    (model / "fetch.py").write_text(code)
    archive = built(model).archive
    assert "model_source/vocabulary.txt" in {file.name for file in archive.files}


def test_prepare_that_fails(tmp_path: Path) -> None:
    """Its own line is named."""
    model = write_parcels(tmp_path / "parcels", source="load:build", prepare="fetch:words")
    (model / "fetch.py").write_text("def words(folder):\n    raise OSError('no network')\n")
    said = refused(model)
    assert "fetch:words: fetch.py line 2" in said
    assert "no network" in said


@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor compiles with g++")
@pytest.mark.slow
def test_ahead_of_time(tmp_path: Path) -> None:
    """What AOTInductor compiled takes other lengths than it was compiled with; as a file of its own, too."""
    source = load_model(write_parcels(tmp_path / "one", source="load:build", runtime="aoti"))
    made = build_artifacts(source, Weights(), empty(tmp_path / "made"))
    assert made.parity is not None
    again = write_parcels(tmp_path / "two", artifact="fast.pt2")
    shutil.copyfile(made.files["model"], again / "fast.pt2")
    found = build_artifacts(load_model(again), Weights(), empty(tmp_path / "found"))
    assert found.models["model"]["format"] == "aoti"
    assert found.golden == made.golden


def empty(folder: Path) -> Path:
    """A new folder."""
    folder.mkdir()
    return folder
