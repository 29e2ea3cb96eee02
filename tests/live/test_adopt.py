"""Archives of torch-model-archiver with a handler on BaseHandler: adopted, served, taken back."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import forked

from .test_commands import Commands
from .test_release_commands import FAST, end

MODEL = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)

    def forward(self, x):
        return torch.softmax(self.layer(x), 1)
"""
HANDLER = """
import torch
from ts.torch_handler.base_handler import BaseHandler

class Mine(BaseHandler):
    def preprocess(self, data):
        return torch.tensor([row["body"] for row in data], dtype=torch.float32)

    def postprocess(self, data):
        return [{"p": row} for row in data.tolist()]
"""


def archived(folder: Path, version: str, seed: int = 0) -> Path:
    """What torch-model-archiver's command makes."""
    import torch

    (folder / "net.py").write_text(MODEL)
    (folder / "mine.py").write_text(HANDLER)
    torch.manual_seed(seed)
    torch.save({f"layer.{n}": t for n, t in torch.nn.Linear(3, 2).state_dict().items()}, folder / "net.pt")
    made = folder / version
    made.mkdir()
    command = [str(Path(sys.executable).with_name("torch-model-archiver")), "--model-name", "net"]
    command += ["--version", version, "--model-file", "net.py", "--serialized-file", "net.pt"]
    command += ["--handler", "mine.py", "--export-path", str(made)]
    subprocess.run(command, cwd=folder, check=True, timeout=120)
    return made / "net.mar"


def typed(*arguments: str | Path, code: int = 0) -> str:
    """What a command prints that needs no server."""
    done = forked.torchmar(arguments, cwd=Path.cwd())
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def torchmar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """A server that was started by `torchmar serve`."""
    commands = Commands(tmp_path_factory.mktemp("adopting"))
    commands("serve")
    yield commands
    end(commands)


@pytest.mark.slow
def test_an_archive_of_torch_model_archiver(torchmar: Commands, tmp_path: Path) -> None:
    """Adopted, verified, released, rolled back; other weights are refused; --request serves the unadopted."""
    requests = tmp_path / "requests"
    requests.mkdir()
    for name, row in (("a", [1, 2, 3]), ("b", [0, 0, 1])):
        (requests / f"{name}.json").write_text(json.dumps(row))
    one, two = archived(tmp_path, "1.0"), archived(tmp_path, "2.0")
    store = tmp_path / "adopted"
    for path in (one, two):
        said = typed("adopt", path, "--golden", requests, "--store", store)
        assert "golden   a.json → {" in said
        assert "needs    its worker loads torch" in said
    assert "2 golden answered as expected" in typed("verify", store / "net-1.0.mar")
    torchmar("release", store / "net-1.0.mar", *FAST)
    assert "net 2.0 is the default" in torchmar("release", store / "net-2.0.mar", *FAST)
    assert "the default is 1.0" in torchmar("rollback", "net")

    four = archived(tmp_path, "4.0")
    assert "unasked" in typed("verify", four, code=3)
    assert "nothing was asked of it" in torchmar("release", four, *FAST, code=3)
    request = ("--request", requests / "a.json")
    assert "a.json → 200: {" in typed("verify", four, *request)
    plan = torchmar("release", four, "--dry-run", *FAST, *request)
    assert "1 request that was given: nothing says what they must be answered with" in plan
    assert "two batches to every worker, of 1 request that was given" in plan
    said = torchmar("release", four, *FAST, *request)
    assert "net 4.0 is the default" in said
    assert "1 request that was given: pass" in said
    assert "did not pass the gate" in torchmar(
        "release", archived(tmp_path, "5.0", 1), *FAST, *request, code=1
    )
    assert "cannot be read" in torchmar("release", four, *FAST, "--request", "nowhere.json", code=1)
