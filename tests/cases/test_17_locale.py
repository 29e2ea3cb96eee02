"""A POSIX locale, as in a slim container, and a folder with accents in its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from .serving import Typed

pytestmark = pytest.mark.live

NO_LOCALE = {"LANG": "", "LC_CTYPE": "", "LC_ALL": ""}


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LANG": "xx_XX.UTF-8"},
    ],
    ids=["C", "POSIX, and Python takes it at its word", "not installed"],
)
def test_a_server_finds_its_files(tmp_path: Path, environment: dict[str, str]) -> None:
    """Java gets a locale in which it can open them, and so do the workers."""
    torchmar = Typed(tmp_path / "Modèles déployés", **{**NO_LOCALE, **environment})
    try:
        torchmar("serve")
        assert "echo 1.0: 1 READY" in torchmar("register", "echo-1.0.mar")
        console = (torchmar.folder / "logs" / "console.log").read_text(encoding="utf-8", errors="replace")
        assert "Exception" not in console
        assert "has stopped" in torchmar("stop")
    finally:
        torchmar.end()
