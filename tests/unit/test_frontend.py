"""What an answer may have, read from the configuration of the frontend that started the worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from handlers.worker.frontend import DEFAULT_MAX_RESPONSE_SIZE, max_response_size

JAVA = ["java", "-cp", "x", "org.pytorch.serve.ModelServer", "--python", "python"]


@pytest.fixture
def process(tmp_path: Path) -> Path:
    """A process's folder in /proc; it runs in tmp_path."""
    folder = tmp_path / "proc"
    folder.mkdir()
    (folder / "cwd").symlink_to(tmp_path)
    return folder


def runs(process: Path, *arguments: str) -> Path:
    (process / "cmdline").write_bytes(b"\0".join(a.encode() for a in arguments) + b"\0")
    return process


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max_response_size=1000\n", 1000),
        ("\ufeffa=b\n max_response_size : 1000 \nx=y", 1000),
        ("max_response_size 1000\r\n", 1000),
        ("max_response_size=1\nmax_response_size=2\n", 2),
        ("# max_response_size=1000\n", DEFAULT_MAX_RESPONSE_SIZE),
        ("max_response_sizes=1000\nmy_max_response_size=7\n", DEFAULT_MAX_RESPONSE_SIZE),
        ("max_response_size=many\n", DEFAULT_MAX_RESPONSE_SIZE),
    ],
)
def test_the_file_it_was_started_with_says_it(
    process: Path, tmp_path: Path, text: str, expected: int
) -> None:
    """As Java reads it; relative to where Java runs, or absolute."""
    file = tmp_path / "conf.properties"
    file.write_text(text, encoding="utf-8")
    for name in (file.name, str(file)):
        assert max_response_size(runs(process, *JAVA, "-f", name, "-s", "store")) == expected


def test_a_file_where_it_runs_says_it_otherwise(process: Path, tmp_path: Path) -> None:
    """`torchserve --start` by hand finds config.properties there."""
    (tmp_path / "config.properties").write_text("max_response_size=1000\n")
    assert max_response_size(runs(process, *JAVA)) == 1000


def test_torchserves_default_holds_where_nothing_is_known(process: Path, tmp_path: Path) -> None:
    """No file, no /proc, and a parent that is no TorchServe."""
    assert max_response_size(runs(process, *JAVA)) == DEFAULT_MAX_RESPONSE_SIZE
    assert max_response_size(tmp_path / "nowhere") == DEFAULT_MAX_RESPONSE_SIZE
    (tmp_path / "config.properties").write_text("max_response_size=1000\n")
    assert max_response_size(runs(process, "bash")) == DEFAULT_MAX_RESPONSE_SIZE
    assert max_response_size() == DEFAULT_MAX_RESPONSE_SIZE
