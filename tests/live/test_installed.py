"""What `pip install torchmar` gives, without a checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from torchmar.server import find_java, find_running

from .servers import ROOT

pytestmark = pytest.mark.live
# Not from here: torchmar is installed from the wheel, and nobody has asked for the real classifier.
LEFT_OUT = ("torchmar", "__editable__", "efficientnet", "distutils-precedence")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`torchmar` of a wheel, in an environment that has this one's other packages. Nothing is downloaded."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("torchmar", "handlers", "models"):
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index"]
    wheels = ["wheel", "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    subprocess.run([*pip, *wheels, *offline], check=True)
    [wheel] = folder.glob("torchmar-*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([*pip, "--python", str(python), "install", *offline, str(wheel)], check=True)
    packages = folder / "packages"
    packages.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(LEFT_OUT):
            (packages / path.name).symlink_to(path)
    [site] = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "others.pth").write_text(f"{packages}\n")
    return folder / "venv" / "bin" / "torchmar"


def run(program: Path, *arguments: str, cwd: Path) -> str:
    java = find_java(os.environ)
    environment = {
        **os.environ,
        "JAVA_HOME": str(java.home),
        "PATH": f"{program.parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        [str(program), *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_quickstart_without_a_checkout(installed: Path, tmp_path: Path) -> None:
    """In a folder of its own; it says what a real classifier needs, and serves a tiny one meanwhile."""
    said = run(installed, "quickstart", "--once", cwd=tmp_path)
    assert "for a real one: pip install 'torchmar[models]'" in said
    assert "red.png classified by the default version, 1.0:" in said
    assert "red.png classified by version 2.0, by its number:" in said
    assert "version 2.0 gives the same answer" in said
    assert "TorchServe has stopped" in said
    assert [path.name for path in tmp_path.iterdir()] == ["torchmar-quickstart"]
    folder = tmp_path / "torchmar-quickstart"
    assert sorted(path.name for path in (folder / "model_store").glob("*.mar")) == [
        "colours-1.0.mar",
        "colours-2.0.mar",
    ]
    assert find_running(folder) is None


def test_a_handler_of_ones_own(installed: Path, tmp_path: Path) -> None:
    """What `init` makes builds as it is, and its golden request is answered."""
    run(installed, "init", "adder", "--handler", "adder.py", cwd=tmp_path)
    said = run(installed, "archive", "models/adder", cwd=tmp_path)
    assert "1 golden answered" in said
    [archive] = (tmp_path / "model_store").iterdir()
    assert archive.name == "adder-1.0.mar"
