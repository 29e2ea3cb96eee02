"""Every block of the README is run, in its order, in a copy of the checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from torchmar.server import find_java, find_running, parse_properties
from torchmar.spec import load_model, parse_spec

from .servers import ROOT, put_on_free_ports

README = (ROOT / "README.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Block:
    """A fenced block; `run_by` says who else runs it."""

    language: str
    text: str
    run_by: str


def blocks() -> list[Block]:
    found = re.findall(r"(?ms)(?:^<!-- run by: (.+?) -->\n)?^```(\w+)\n(.*?)^```$", README)
    return [Block(language, text, run_by) for run_by, language, text in found]


def test_blocks_run_elsewhere_are_run_there() -> None:
    """What a block says of who runs it is true."""
    elsewhere = [block for block in blocks() if block.run_by]
    assert [block.text.strip() for block in elsewhere] == ["./scripts/quickstart", "./scripts/test"]
    file, _, function = elsewhere[0].run_by.partition("::")
    assert f"def {function}(" in (ROOT / file).read_text(encoding="utf-8")
    assert "./scripts/test\n" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_model_yaml_is_the_models() -> None:
    """The README's model.yaml is valid, and says what models/vgg16 says."""
    [shown] = [block.text for block in blocks() if block.language == "yaml"]
    folder = ROOT / "models" / "vgg16"
    spec, real = parse_spec(shown, "README.md", folder), load_model(folder).spec
    for key in ("name", "version", "handler", "source", "params", "runtime", "serving"):
        assert getattr(spec, key) == getattr(real, key), key


def test_links_lead_to_files() -> None:
    """Relative links of the README and the docs."""
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A copy of the checkout in which `torchmar quickstart --once` has run, and what it printed."""
    folder = tmp_path_factory.mktemp("checkout") / "torchmar"
    ignore = shutil.ignore_patterns(
        ".venv*", ".git", "*.mar", "logs", ".*_cache", "__pycache__", "key_file.json"
    )
    shutil.copytree(ROOT, folder, ignore=ignore)
    program = Path(sys.executable).parent / "torchmar"
    done = subprocess.run(
        [str(program), "quickstart", "--once"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_quickstart(quickstart: tuple[Path, str]) -> None:
    """Exit code 0, the picture is recognised by both versions, nothing runs afterwards."""
    folder, output = quickstart
    assert output.count("military uniform") == 2
    assert "version 2.0 gives the same answer" in output
    assert "TorchServe has stopped" in output
    assert sorted(path.name for path in (folder / "model_store").glob("*.mar")) == [
        "efficientnet_lite0-1.0.mar",
        "efficientnet_lite0-2.0.mar",
    ]
    assert find_running(folder) is None


@pytest.fixture
def checkout(quickstart: tuple[Path, str]) -> Path:
    """The quickstart's folder with this environment as its .venv, on free ports."""
    folder, _ = quickstart
    (folder / ".venv").symlink_to(sys.prefix)
    put_on_free_ports(folder / "config.properties")
    return folder


def script(folder: Path) -> str:
    """The tour as one bash session; Python blocks in between, tests through pytest."""
    settings = parse_properties((folder / "config.properties").read_text())
    ports = {8080: "inference_address", 8081: "management_address", 8082: "metrics_address"}
    lines = ["set -euo pipefail"]
    for number, block in enumerate(block for block in blocks() if not block.run_by):
        text = block.text
        for port, key in ports.items():
            text = text.replace(f"http://127.0.0.1:{port}", settings[key])
        addresses = "".join(f"{key.split('_')[0]}={settings[key]!r}, " for key in ports.values())
        text = text.replace("connect(", f"connect({addresses}")  # the default ports may be in use here
        if block.language == "sh":
            lines += [f"echo '--- block {number}'", text]
        elif block.language == "python":
            (folder / f"test_block_{number}.py").write_text(text)
            how = "python -m pytest -q" if "def test_" in text else "python"
            lines += [f"echo '--- block {number}'", f"{how} test_block_{number}.py"]
    return "\n".join(lines)


def test_the_tour(checkout: Path) -> None:
    """From the archives that the quickstart left to the last block, every command succeeds."""
    temporary = checkout / "tmp"
    temporary.mkdir()
    java = find_java(os.environ)
    keep = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment = {**keep, "JAVA_HOME": str(java.home), "TMPDIR": str(temporary), "TEMP": str(temporary)}
    try:
        with (checkout / "tour.txt").open("w") as output:
            done = subprocess.run(
                ["bash", "-c", script(checkout)],
                cwd=checkout,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=400,
                check=False,
            )
        printed = (checkout / "tour.txt").read_text()
        assert done.returncode == 0, printed[-4000:]
        for model in ("colours", "adder", "sum", "length"):
            assert f"model_store/{model}-1.0.mar" in printed
        assert printed.count("1 golden answered") >= 4
        assert '"label": "military uniform"' in printed
        assert "not a JPEG, PNG or WebP picture" in printed
        assert "efficientnet_lite0: default is 2.0" in printed
        assert re.search(r"efficientnet_lite0 +2\.0 +default +2 +2 ", printed), printed[-2000:]
        assert "1 passed" in printed
    finally:
        for command in (["torchmar", "stop"], ["torchserve", "--stop", "--foreground"]):
            program = str(Path(sys.executable).parent / command[0])
            subprocess.run([program, *command[1:]], cwd=checkout, env=environment, timeout=90, check=False)
