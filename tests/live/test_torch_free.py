"""An ONNX archive's worker never loads torch, though it is installed; it gets the real one if it uses it."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from .servers import ROOT, STAND_IN, Live

PICTURE = ROOT / "tests/models/tiny/golden/noise.png"

USES_TORCH = """
import torch

def handle(data, context):
    if data is None:
        return None
    six = torch.ones(2, 3).sum()
    answer = {"sum": six.item(), "tensor": isinstance(six, torch.Tensor), "kind": type(torch).__name__}
    return [answer] * len(data)
"""


def loaded_libraries(live: Live, name: str, version: str) -> list[set[str]]:
    """The shared libraries that each worker has loaded."""
    found = []
    for worker in live.management.describe(name, version).workers:
        lines = Path(f"/proc/{worker.pid}/maps").read_text().splitlines()
        found.append({Path(line.split()[-1]).name for line in lines if ".so" in line})
    return found


def test_a_worker_of_an_onnx_archive_never_loads_torch(tiny: Live) -> None:
    """Not when it starts, and not when it answers; the eager one beside it does."""
    for version in ("1.0", "2.0"):
        assert tiny.inference.predict("tiny", PICTURE, version=version).json()
    [eager], [onnx] = (loaded_libraries(tiny, "tiny", version) for version in ("1.0", "2.0"))
    assert any(name.startswith("libtorch") for name in eager)
    assert not any(name.startswith("libtorch") for name in onnx)
    assert any(name.startswith("onnxruntime") for name in onnx)


def test_an_archive_carries_the_stand_in(tiny_onnx: Path) -> None:
    """The one that the archives of these tests carry."""
    with zipfile.ZipFile(tiny_onnx) as ours:
        assert {name: ours.read(name) for name in STAND_IN} == STAND_IN


def test_the_stand_in_yields_to_the_real_torch(server: Live) -> None:
    """A handler beside the stand-in that really computes with torch gets it, and its tensors are tensors."""
    server.serve(server.stranger("torchy", USES_TORCH))
    assert not any(name.startswith("libtorch") for name in loaded_libraries(server, "torchy", "1.0")[0])
    answer = server.inference.predict("torchy", b"x").json()
    assert answer == {"sum": 6.0, "tensor": True, "kind": "LazyTorch"}
    assert any(name.startswith("libtorch") for name in loaded_libraries(server, "torchy", "1.0")[0])


IMPORT_ALL = """
import importlib, json, pkgutil, sys
if sys.argv[1] == "stand-in":
    from handlers.worker.lazy_torch import install
    install()
import ts
found = {}
for module in pkgutil.walk_packages(ts.__path__, "ts.", onerror=lambda _: None):
    try:
        importlib.import_module(module.name)
        found[module.name] = "imported"
    except BaseException as error:
        found[module.name] = type(error).__name__
print(json.dumps(found))
"""


@pytest.mark.slow
def test_every_module_of_torchserve_imports_as_without_the_stand_in() -> None:
    """The worker's own, the handlers that come with it, and the ones that lack a package: no difference."""
    answers = []
    for kind in ("real", "stand-in"):
        command = [sys.executable, "-c", IMPORT_ALL, kind]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
        answers.append(json.loads(done.stdout.splitlines()[-1]))
    assert answers[0] == answers[1]
    for name in ("ts.model_service_worker", "ts.service", "ts.model_loader", "ts.torch_handler.base_handler"):
        assert answers[1][name] == "imported"
