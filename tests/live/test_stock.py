"""Our archives in stock TorchServe: an environment without torchmar and without torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from torchmar.client import KeyFile, connect
from torchmar.server import WorkerLog, free_ports, read_config, start, stop

from .servers import ROOT

PICTURE = ROOT / "tests/models/tiny/golden/noise.png"
# What TorchServe asks for, what it forgets to ask for (PyYAML), and what an ONNX archive needs.
STOCK = ["torchserve==0.12.0", "pyyaml", "onnxruntime", "pillow", "numpy"]


@pytest.fixture(scope="module")
def stock_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment with stock TorchServe in it."""
    folder = tmp_path_factory.mktemp("stock") / "venv"
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    with_uv = [str(uv), "pip", "install", "--quiet", "--python", str(python), *STOCK]
    if (
        uv is None
        or subprocess.run(with_uv, env={**os.environ, "UV_SYSTEM_CERTS": "1"}, check=False).returncode
    ):
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *STOCK], check=True)
    return python


@pytest.mark.network
def test_neither_torch_nor_torchmar_is_there(stock_python: Path) -> None:
    """What the other tests of this file rest on."""
    for module in ("torch", "torchmar"):
        done = subprocess.run(
            [str(stock_python), "-c", f"import {module}"],
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert f"No module named '{module}'" in done.stderr


@pytest.mark.network
def test_onnx_archive_is_served(
    stock_python: Path, tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The handlers run unchanged, with the stand-in for torch that the archive carries."""
    folder = tmp_path_factory.mktemp("stock-server")
    store = folder / "model_store"
    store.mkdir()
    shutil.copyfile(tiny_onnx, store / tiny_onnx.name)
    config = free_ports(read_config(ROOT / "config.properties"))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    running = start(folder, store, config, environment=environment, python=str(stock_python))
    try:
        with connect(
            inference=config.inference,
            management=config.management,
            tokens=KeyFile(folder / "key_file.json"),
            reason=WorkerLog(running.logs).why_died,
        ) as clients:
            clients.management.register(tiny_onnx.name)
            clients.management.wait_until_ready("tiny", "2.0")
            answer = clients.inference.predict("tiny", PICTURE).json()
            described = clients.management.describe("tiny", customized=True).customized
    finally:
        stop(running, timeout=0)
    assert len(answer) == 3
    assert described is not None
    assert described["handler"]["classes"] == 10
