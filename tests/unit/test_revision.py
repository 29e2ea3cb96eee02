"""The revision that git tells of a folder, asked of a real git."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from torchmar.revision import revision_of

WHO = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
WHO |= {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
ENVIRONMENT = {**os.environ, **WHO}


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with a model's folder, another folder, and what git ignores."""
    for file in ("models/m/model.yaml", "models/m/w.pth", "other/a.py"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("1")
    (tmp_path / ".gitignore").write_text("*.pth\nbuilt\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "one")
    return tmp_path


def test_a_clean_folder(checkout: Path) -> None:
    """What `git rev-parse HEAD` says, also where other folders have changes."""
    (checkout / "other" / "a.py").write_text("2")
    (checkout / "models" / "m" / "more.pth").touch()
    assert revision_of(checkout / "models" / "m", ENVIRONMENT) == git(checkout, "rev-parse", "HEAD")


@pytest.mark.parametrize("file", ["model.yaml", "new.py"])
def test_a_folder_with_changes(checkout: Path, file: str) -> None:
    """Of a file that git knows, or one that it does not."""
    (checkout / "models" / "m" / file).write_text("2")
    head = git(checkout, "rev-parse", "HEAD")
    assert revision_of(checkout / "models" / "m", ENVIRONMENT) == f"{head}-dirty"


def test_a_hook_of_another_repository(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Its variables are about that one."""
    other = tmp_path_factory.mktemp("other")
    git(other, "init", "--quiet")
    found = revision_of(checkout / "models", {**ENVIRONMENT, "GIT_DIR": str(other / ".git")})
    assert found == git(checkout, "rev-parse", "HEAD")


def test_where_git_knows_nothing(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No repository, no commit, an ignored folder, no folder, no git, a git that hangs."""
    outside = tmp_path_factory.mktemp("outside")
    ceiling = {**ENVIRONMENT, "GIT_CEILING_DIRECTORIES": str(outside.parent)}
    assert revision_of(outside, ceiling) is None
    git(outside, "init", "--quiet")
    assert revision_of(outside, ENVIRONMENT) is None
    (checkout / "built").mkdir()
    assert revision_of(checkout / "built", ENVIRONMENT) is None
    assert revision_of(checkout / "nowhere", ENVIRONMENT) is None
    assert revision_of(checkout, {"PATH": str(outside)}) is None

    def hangs(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        raise subprocess.TimeoutExpired("git", 1)

    assert revision_of(checkout, ENVIRONMENT, run=hangs) is None
