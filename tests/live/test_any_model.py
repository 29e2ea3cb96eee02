"""A task that torchmar has never heard of: from a model's folder to a server, and back."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.any_model import PLAIN, write_model, write_parcels
from torchmar.archive import build
from torchmar.mar import verify
from torchmar.server import find_running, stop
from torchmar.spec import load_model

from .servers import ROOT
from .test_commands import Commands
from .test_release_commands import FAST
from .test_tune import Tune

SHORT = ("--seconds", "0.2", "--rounds", "2", "--max-workers", "2", "--max-batch", "1", "--clients", "2")


@pytest.fixture(scope="module")
def torchmar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """A server that was started by `torchmar serve`."""
    commands = Commands(tmp_path_factory.mktemp("any"))
    commands("serve")
    yield commands
    running = find_running(commands.folder)
    if running is not None:
        stop(running, timeout=0)


@pytest.fixture
def tune(tmp_path: Path) -> Iterator[Tune]:
    """Its temporary folder has a short name: sockets are in there."""
    with tempfile.TemporaryDirectory(prefix="tt-") as temporary:
        yield Tune(tmp_path, Path(temporary))


def archives(model: Path, folder: Path) -> list[Path]:
    """Versions 1.0 and 2.0 of a model."""
    sources = (load_model(model, {"version": version}) for version in ("1.0", "2.0"))
    return [build(source, folder / "store").archive.path for source in sources]


def predicted(torchmar: Commands, name: str, folder: Path, request: Any) -> Any:
    """The answer to a request that is sent as JSON, or as text."""
    body = folder / ("body.txt" if isinstance(request, str) else "body.json")
    body.write_text(request if isinstance(request, str) else json.dumps(request))
    [found] = torchmar.json("predict", name, body)
    return found["answer"]


def test_a_task_of_ones_own_is_one_file(torchmar: Commands, tune: Tune, tmp_path: Path) -> None:
    """Two inputs of other dtypes, ragged, and three outputs: built, verified, served, released, rolled back
    and tuned, and no file of torchmar's has its name.
    """
    model = write_parcels(tmp_path / "parcels", source="load:build", serving={"batchSize": 4})
    known = [path for room in ("torchmar", "handlers") for path in (ROOT / room).rglob("*.py")]
    assert not [path for path in known if "parcels" in path.read_text().lower()]
    one, two = archives(model, tmp_path)
    assert verify(two).problems() == []
    torchmar("release", one, *FAST)
    assert "parcels 2.0 is the default" in torchmar("release", two, *FAST)
    words = ["a", "b", "c", "d", "a", "b", "c"]  # more than any that it was exported with
    rows = [{"parcels": words[:count], "weight": count} for count in (7, 1)]
    both = predicted(torchmar, "parcels", tmp_path, {"instances": rows})["predictions"]
    assert [(row["parcels"], row["longest"]) for row in both] == [(7, 4), (1, 1)]
    alone = predicted(torchmar, "parcels", tmp_path, rows[1])
    assert alone["mean"] == pytest.approx(both[1]["mean"], abs=1e-5)
    assert "the default is 1.0" in torchmar("rollback", "parcels")
    content = json.loads(tune(one, "--p99", "20s", *SHORT, "--model", model, "--json"))
    assert content["result"] in {"better", "as good"}
    assert all(trial["candidate"]["threads"] for trial in content["trials"])


def greeters(tmp_path: Path) -> list[Path]:
    """Two versions of a plain function."""
    files = {"mine.py": PLAIN}
    spec = {"name": "greeter", "handler": "mine.py", "torch_free": True, "files": []}
    return archives(write_model(tmp_path / "greeter", files, {"w.txt": "world"}, **spec), tmp_path)


def test_a_plain_function(torchmar: Commands, tmp_path: Path) -> None:
    """Released and rolled back as anything else."""
    one, two = greeters(tmp_path)
    torchmar("release", one, *FAST)
    assert "greeter 2.0 is the default" in torchmar("release", two, *FAST)
    assert predicted(torchmar, "greeter", tmp_path, "you") == "hello you"
    assert "the default is 1.0" in torchmar("rollback", "greeter")


@pytest.mark.slow
def test_a_plain_function_is_tuned(tune: Tune, tmp_path: Path) -> None:
    """Its workers and batches are; it says that its threads are left alone."""
    one, _ = greeters(tmp_path)
    content = json.loads(tune(one, "--p99", "20s", *SHORT, "--json"))
    assert content["result"] in {"better", "as good"}
    assert {trial["candidate"]["threads"] for trial in content["trials"]} == {None}
    assert {trial["candidate"]["workers"] for trial in content["trials"]} == {1, 2}
    assert "threads are unchanged" in content["says"]


DETECTOR = """\
from dataclasses import dataclass

import numpy as np
from handlers.base import BatchHandler, Decoded
from handlers.requests import content_of


@dataclass(frozen=True)
class Params:
    pass


class Finder(BatchHandler[Params]):
    def example(self):
        return {"corner": np.array([10, 20], dtype=np.float32)}

    def decode(self, request):
        return Decoded([{"corner": np.array(content_of(request, "a corner", "[x, y]"), dtype=np.float32)}])

    def encode(self, output, about):
        return [{"label": "person", "score": 0.9, "box": output["output"].tolist()}]

    def compare(self):
        return {"kind": "boxes", "min_iou": 0.9}
"""
FINDS = """\
import torch


class Net(torch.nn.Module):
    def forward(self, corner):
        return torch.cat([corner, corner + SIZE], 1)


def build():
    return Net()
"""


@pytest.mark.slow
def test_a_detector_with_other_boxes_is_refused(torchmar: Commands, tmp_path: Path) -> None:
    """Its labels and scores are the same, and its archive agrees with itself: the gate compares the boxes."""
    found = []
    for version, size in (("1.0", "50"), ("2.0", "20")):
        files = {"mine.py": DETECTOR, "load.py": FINDS.replace("SIZE", size)}
        golden = {"one.json": [10, 20], "two.json": [40, 5]}
        spec = {"name": "finder", "version": version, "handler": "mine.py", "source": "load:build"}
        model = write_model(tmp_path / version, files, golden, **spec)
        found.append(build(load_model(model), tmp_path / "store").archive.path)
    torchmar("release", found[0], *FAST)
    said = torchmar("release", found[1], *FAST, code=1)
    assert "did not pass the gate" in said
    assert "0 of 2 requests are answered as the default answers them" in " ".join(said.split())
    [row] = [row for row in torchmar.json("versions", "finder") if row["default"]]
    assert row["version"] == "1.0"
