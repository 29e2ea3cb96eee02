"""Where `torchmar quickstart` works, and on what."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchmar.cli import starting
from torchmar.spec import load_model

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize("weights", [True, False])
def test_it_needs_no_checkout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], weights: bool
) -> None:
    """The real classifier where its packages are, else a tiny one; both load, and twice alike."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(starting, "_has_weights", lambda: weights)
    folder = starting._folder(None)
    assert folder == tmp_path / "torchmar-quickstart"
    subject = starting._subject(folder)
    assert subject == starting._subject(folder)
    assert load_model(subject.model).spec.name == subject.name
    assert subject.picture.is_file()
    assert ("pip install 'torchmar[models]'" in capsys.readouterr().out) is not weights


@pytest.mark.parametrize("weights", [True, False])
def test_a_checkout_is_used_and_kept_clean(monkeypatch: pytest.MonkeyPatch, weights: bool) -> None:
    """Nothing is made in its models/: the tiny classifier goes elsewhere."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(starting, "_has_weights", lambda: weights)
    assert starting._folder(None) == (ROOT if weights else ROOT / "torchmar-quickstart")
