"""Makes an environment for each other server, once, in a folder that git ignores.

The versions are pinned, so that figures can be reproduced. ONNX Runtime, numpy, Pillow and torch have the
versions of this environment, so that all servers compute with the same libraries.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

COMPUTE = ("onnxruntime", "numpy", "pillow")
TORCH = ("torch", "torchvision")


@dataclass(frozen=True)
class Environment:
    """Lists packages to install; those in `same` get the versions of this environment."""

    name: str
    packages: tuple[str, ...]
    same: tuple[str, ...] = COMPUTE

    def requirements(self) -> list[str]:
        """Return the requirements for pip."""
        return [*self.packages, *(f"{name}=={version(name).partition('+')[0]}" for name in self.same)]


ENVIRONMENTS = {
    environment.name: environment
    for environment in (
        # https://github.com/pytorch/serve/tree/v0.12.0#-quick-start-with-torchserve, and what its
        # requirements/common.txt and its image_classifier need besides.
        Environment(
            "stock",
            ("torchserve==0.12.0", "torch-model-archiver==0.12.0", "captum", "pyyaml", "psutil", "requests"),
            same=(*TORCH, "numpy", "pillow"),
        ),
        Environment("litserve", ("litserve==0.2.19", "python-multipart==0.0.34")),
        Environment("mosec", ("mosec==0.9.8",)),
        Environment("fastapi", ("fastapi==0.165.0", "uvicorn[standard]==0.54.0")),
        Environment("bentoml", ("bentoml==1.4.39",)),
    )
}


class NotInstalled(Exception):
    """Says why an environment could not be made."""


def python_of(name: str, folder: Path) -> Path:
    """Return the interpreter of an environment below `folder`, made if needed. Raises NotInstalled."""
    requirements = ENVIRONMENTS[name].requirements()
    place = folder / name
    python, stamp = place / "bin" / "python", place / "made-from"
    wanted = hashlib.sha256(json.dumps([sys.version, requirements]).encode()).hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text(encoding="ascii") == wanted:
        return python
    shutil.rmtree(place, ignore_errors=True)
    _make(place, requirements)
    stamp.write_text(wanted, encoding="ascii")
    return python


def versions_of(python: Path, names: Sequence[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    code = (
        "import sys, json, importlib.metadata as m\n"
        "have = {d.name.lower(): d.version for d in m.distributions()}\n"
        "print(json.dumps({n: have[n.lower()] for n in sys.argv[1:] if n.lower() in have}))"
    )
    done = subprocess.run([str(python), "-c", code, *names], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def _make(place: Path, requirements: Sequence[str]) -> None:
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    python = str(place / "bin" / "python")
    index = os.environ.get("TORCHMAR_TORCH_INDEX", "")
    torch = [name for name in requirements if index and name.partition("==")[0] in TORCH]
    rest = [name for name in requirements if name not in torch]
    installs = [[*torch, "--index-url", index]] * bool(torch) + [rest]
    if uv is not None:
        _run([uv, "venv", "--quiet", "--python", sys.executable, str(place)])
        # Compiled now, as pip does, and not at the first launch, which is measured.
        install = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python]
        if all(_run([*install, *names], check=False) for names in installs):
            return
        shutil.rmtree(place)
    # uv reads no pip.conf: where a mirror is set up for pip alone, pip takes over.
    _run([sys.executable, "-m", "venv", str(place)])
    for names in installs:
        _run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *names])


def _run(command: Sequence[str], *, check: bool = True) -> bool:
    environment = {**os.environ, "UV_SYSTEM_CERTS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode and check:
        raise NotInstalled(f"{' '.join(command[:4])} …: {done.stderr.strip()[-1500:]}")
    return done.returncode == 0
