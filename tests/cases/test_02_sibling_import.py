"""Case 02: a file of the model's folder, imported by its plain name."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchmar.errors import ExportError
from torchmar.export import Weights, load_module
from torchmar.spec import load_model

from .models import CLASSIFIER, model_folder


def test_it_says_what_to_write(tmp_path: Path) -> None:
    """First of all, with the line; nothing of pip, which could not help."""
    model = model_folder(tmp_path, f"from layers import head\n{CLASSIFIER}", layers_dot_py="head = 1\n")
    with pytest.raises(ExportError) as caught:
        load_module(load_model(model), Weights("random"))
    assert str(caught.value).startswith(f"{model / 'load.py'}: write `from .layers import …`, with a dot")
    assert "load.py line 1: No module named 'layers'" in str(caught.value)
    assert "pip" not in str(caught.value)


def test_what_it_says_works(tmp_path: Path) -> None:
    """With the dot."""
    model = model_folder(tmp_path, f"from .layers import head\n{CLASSIFIER}", layers_dot_py="head = 1\n")
    assert load_module(load_model(model), Weights("random"))
