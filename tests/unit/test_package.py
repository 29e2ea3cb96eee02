"""What is installed from a wheel is whole."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.network
def test_wheel_carries_handlers_data_and_types(tmp_path: Path) -> None:
    """handlers/ is at the top of the checkout and inside the installed package, and is found there."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("torchmar", "handlers", "models"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path)]
    subprocess.run([*command, str(source)], check=True)
    [wheel] = tmp_path.glob("torchmar-*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    wanted = {path.relative_to(source) for path in (source / "torchmar").rglob("*") if path.is_file()}
    wanted |= {Path("torchmar") / path.relative_to(source) for path in files_in(source / "handlers")}
    examples = Path("torchmar", "examples")
    real = files_in(source / "models" / "efficientnet_lite0")
    wanted |= {examples / path.relative_to(source / "models") for path in real}
    found = {path.relative_to(installed) for path in (installed / "torchmar").rglob("*") if path.is_file()}
    assert found == wanted
    assert not (installed / "handlers").exists()
    code = "from torchmar.handler_code import handlers; print(handlers('base').__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(installed)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.strip()) == installed / "torchmar" / "handlers" / "base.py"
