"""Case 34: names that no file can have."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchmar.errors import SpecError
from torchmar.spec import load_model

from .models import SPEC, model_folder


@pytest.mark.parametrize(("name", "version"), [("m" * 300, "1.0"), ("m", "1" * 300), ("m" * 140, "1" * 120)])
def test_the_spec_refuses_them(tmp_path: Path, name: str, version: str) -> None:
    """In few words, with the line."""
    model = model_folder(tmp_path)
    (model / "model.yaml").write_text(SPEC.replace("small", name).replace("1.0", version))
    with pytest.raises(SpecError) as caught:
        load_model(model)
    [problem] = caught.value.problems
    assert problem.line in {1, 2}
    assert "characters together" in problem.what
    assert len(str(problem)) < 200


def test_so_do_the_options(tmp_path: Path) -> None:
    """--version wins over the file."""
    with pytest.raises(SpecError, match="301 characters together"):
        load_model(model_folder(tmp_path), {"version": "1" * 296})
