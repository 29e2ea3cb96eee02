"""Case 01: files that an editor saved with a byte order mark."""

from __future__ import annotations

from pathlib import Path

import pytest

from handlers.labels import read_labels
from torchmar.files import read_text
from torchmar.measure.tune._model_yaml import changed
from torchmar.measure.tune._values import Candidate
from torchmar.spec import load_model

from .models import SPEC, answers, model_folder

BOM = b"\xef\xbb\xbf"


def test_the_mark_is_no_part_of_an_answers_label(binary: Path) -> None:
    """Nor is what Windows ends lines with; the last line was empty."""
    [[first, second]] = answers(binary, 1)
    assert {first["label"], second["label"]} == {"dunkel", "fähre"}


@pytest.mark.parametrize(
    ("labels", "content"),
    [
        ("l.txt", BOM + "cat\ndog\nfähre\n".encode()),
        ("l.txt", "cat\r\ndog\r\nfähre\r\n".encode("utf-16")),
        ("l.json", BOM + '["cat", "dog", "fähre"]'.encode()),
    ],
)
def test_labels_and_model_yaml_are_read_without_it(tmp_path: Path, labels: str, content: bytes) -> None:
    """Whichever of them has one."""
    model_folder(tmp_path)
    (tmp_path / labels).write_bytes(content)
    (tmp_path / "model.yaml").write_bytes(BOM + f"{SPEC}  labels: {labels}\n".encode())
    source = load_model(tmp_path)
    assert source.spec.name == "small"
    assert read_labels(source.spec.params["labels"], tmp_path) == ["cat", "dog", "fähre"]


def test_a_file_that_tune_writes_keeps_it(tmp_path: Path) -> None:
    """Not a byte changes besides the values."""
    text = changed(f"\ufeff{SPEC}", Candidate(1, 1, 2, 1))
    assert text.startswith(f"\ufeff{SPEC}serving: {{")
    (tmp_path / "model.yaml").write_text(text, encoding="utf-8")
    assert read_text(tmp_path / "model.yaml").startswith("name: small")
