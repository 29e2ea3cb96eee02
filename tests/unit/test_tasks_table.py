"""The table of docs/tasks/index.md and its JSON, from recorded figures; no server."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import tasks
from benchmarks.tables import into_page
from torchmar.spec import load_model

from ..conftest import ROOT

SERVED = tasks.Row(
    "wine",
    "tabular",
    "BSD-3-Clause (data)",
    answers_right=True,
    parity=9.6e-8,
    archive_mb=0.09,
    rps=1234.5,
    limit_rps=56.78,
    torch_free=True,
    request="class_0.json",
    answer="class_0 | 0.99",
    built=True,
)
MISSING = tasks.Row("g2p", "seq2seq", "Apache-2.0", note="pip install --no-deps g2p-en==2.1.0")


def test_json_has_the_keys_that_are_documented() -> None:
    """Each task with what is asked of it, the processor and the versions; null for what was not measured."""
    found = json.loads(json.dumps(tasks.report([SERVED, MISSING], "./scripts/tasks")))
    keys = {"name", "task", "licence", "answers_right", "parity", "archive_mb", "rps", "limit_rps"}
    assert all({*keys, "torch_free"} <= row.keys() for row in found["tasks"])
    assert found["processor"]
    assert found["versions"]["python"]
    assert found["tasks"][1]["rps"] is None


def test_table_has_what_was_built_and_tells_what_was_not() -> None:
    """A row for a model that was served, with its bars escaped; a line with the remedy for the other."""
    text = tasks.markdown(tasks.report([SERVED, MISSING], "./scripts/tasks"))
    rows = [line for line in text.splitlines() if line.startswith("| [")]
    assert rows == [
        "| [tabular](tabular.md) | `wine` | BSD-3-Clause (data) | 0.09 | 9.6e-08 | class_0.json "
        r"| class_0 \| 0.99 | yes | 1,234 | 56.8 | no |"
    ]
    assert "- `g2p`, seq2seq: pip install --no-deps g2p-en==2.1.0" in text.splitlines()


def test_page_keeps_what_people_wrote() -> None:
    """A second run replaces the table alone."""
    page = into_page("# Tasks\n", "first\n", "scripts/tasks")
    again = into_page(page + "\nafter\n", "second\n", "scripts/tasks")
    assert again.startswith("# Tasks\n")
    assert "first" not in again
    assert again.endswith("\nafter\n")


def test_every_model_has_its_licence_and_request() -> None:
    """None under models/ is forgotten, and each request that is named is there."""
    files = sorted((ROOT / "models").glob("*/*.yaml"))
    assert {load_model(file).spec.name for file in files} == tasks.MODELS.keys()
    assert all(list((ROOT / "models").glob(model.request)) for model in tasks.MODELS.values())


def test_index_lists_every_page() -> None:
    """Each page of docs/tasks has a line, and each model of the index a page."""
    folder = ROOT / "docs" / "tasks"
    text = (folder / "index.md").read_text(encoding="utf-8")
    pages = {page.name for page in folder.glob("*.md")} - {"index.md"}
    assert all(f"]({page}): " in text for page in pages)


def png() -> bytes:
    buffer = io.BytesIO()
    image = Image.new("P", (4, 2))
    image.putpixel((0, 0), 1)
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'[{"label": "coat", "probability": 0.91}, {"label": "cap", "probability": 0.01}]', "coat 0.91"),
        (b'{"predictions": [[{"label": "person", "score": 0.5, "id": 1}], []]}', "person 0.50"),
        (b"[0.5, 0.25, 0.5, 0.25, 0.5, 0.25]", "6 numbers"),
        (b'{"text": "All circuits are busy now.", "language": "en"}', "All circuits are busy now."),
        (b'[{"progression": 151.25}]', '{"progression": 151.25}'),
        (b"[]", "[]"),
        (png(), "PNG of 4 × 2, 12.5% of it the person"),
        (b"\xff\xfe\x00", "3 bytes"),
    ],
)
def test_answer_in_some_words(body: bytes, told: str) -> None:
    """Whatever its form."""
    assert tasks.brief(body) == told


def test_unknown_name_is_told() -> None:
    """With those that there are."""
    with pytest.raises(SystemExit, match=r"--only whine: expected diabetes, .*wine"):
        tasks.main(["--only", "whine"])


def test_model_without_its_package_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install is its note, and nothing was served."""
    from torchmar.errors import ExportError

    def lacking(*_: object, **__: object) -> None:
        raise ExportError("g2p: pip install --no-deps g2p-en==2.1.0\n  (load.py, line 88)")

    monkeypatch.setattr(tasks, "build", lacking)
    row = tasks.measure("g2p", Path(ROOT / "models" / "g2p" / "model.yaml"))
    assert (row.built, row.answers_right) == (False, None)
    assert row.note == "g2p: pip install --no-deps g2p-en==2.1.0"
