"""The reference of drift travels in the archive: what it holds, what it is for, and who may have made it."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.any_model import write_model
from tests.conftest import MakeOnce
from torchmar import mar, pack
from torchmar.archive import build
from torchmar.cli import app
from torchmar.drift import Figures, Reference, parsed_reference, reference_of
from torchmar.errors import ArchiveCorrupt, ArchiveExists, DatasetError, SpecError, TorchmarError
from torchmar.spec import load_model
from torchmar.worker import Worker

from .test_drift import HANDLER

WORDS = ["a secret", "b", "aab", "no"]


def write_letters(folder: Path, words: list[str] = WORDS, **spec: Any) -> Path:
    """A model folder whose reference is a table of 80 texts."""
    rows = "\n".join(json.dumps({"text": words[number % len(words)]}) for number in range(80))
    files = {"mine.py": HANDLER, "old.jsonl": rows, "new.csv": "text\n" + 60 * "cc\n"}
    said: dict[str, Any] = {"name": "letters", "handler": "mine.py", "reference": "old.jsonl"}
    said |= {"compare": {"kind": "first", "by": "label"}, "torch_free": True, **spec}
    return write_model(folder, files, **said)


def built(folder: Path, **options: Any) -> Any:
    return build(load_model(folder), folder / "store", **options)


@pytest.fixture(scope="session")
def letters(make_once: MakeOnce) -> Path:
    """A model's folder with its store. Read it, do not change it."""
    return make_once("letters-with-reference", lambda folder: built(write_letters(folder)))


@pytest.fixture
def archive(letters: Path) -> mar.Archive:
    return mar.verify(letters / "store" / "letters-1.0.mar")


def typed(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, [*map(str, words)], env={"COLUMNS": "250"})
    assert done.exit_code == code, done.output
    return done.output


def refused(*words: object) -> str:
    """The error's text, which the command prints."""
    done = CliRunner().invoke(app, [*map(str, words)])
    assert isinstance(done.exception, TorchmarError), done.exception
    return str(done.exception)


# -- what is in it ------------------------------------------------------------------------------


def test_an_archive_carries_what_its_reference_is_like(archive: mar.Archive) -> None:
    """Counts and figures, and of no request its content."""
    found = reference_of(archive)
    assert found is not None
    assert (found.answered, found.refused, len(found.data_sha256)) == (60, 20, 64)
    assert found.classes == {"class": {"a": 40, "b": 20}, "outcome": {"answered": 60, "refused": 20}}
    size = found.numbers["bytes of the request"]
    assert (sum(size.counts), len(size.counts) - len(size.edges), set(size.sample)) == (
        60,
        1,
        {1.0, 3.0, 8.0},
    )
    assert "secret" not in json.dumps(mar.reference_json(archive))


def test_the_same_inputs_give_the_same_bytes(archive: mar.Archive, tmp_path: Path) -> None:
    again = built(write_letters(tmp_path))
    assert again.archive.sha256 == archive.sha256
    [note] = again.notes
    assert note.startswith("20 of 80 requests of the reference are refused, as line 4: 503: ")


def test_another_reference_is_another_archive(archive: mar.Archive, tmp_path: Path) -> None:
    folder = write_letters(tmp_path)
    (folder / "store").mkdir()
    (folder / "store" / archive.path.name).write_bytes(archive.path.read_bytes())
    assert built(folder).was_there
    (folder / "old.jsonl").write_text('{"text": "b"}')
    with pytest.raises(ArchiveExists):
        built(folder)


def test_its_requests_are_not_packed(archive: mar.Archive) -> None:
    """Though a handler's own archive packs what is in the folder."""
    names = {file.name for file in archive.files}
    assert "new.csv" in names
    assert "old.jsonl" not in names


def test_another_model_has_another_reference(archive: mar.Archive, tmp_path: Path) -> None:
    """A variant with another handler keeps none; with other golden requests it does."""
    changed = pack.variant(archive, tmp_path / "a.mar", {"mine.py": HANDLER.replace("1 /", "2 /").encode()})
    asked = pack.variant(archive, tmp_path / "b.mar", {f"{mar.GOLDEN}/a.txt": b"a"})
    assert (mar.reference_json(changed), mar.reference_json(asked) is None) == (None, False)


def test_a_reference_that_is_not_there_or_not_answered(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"reference: no folder or table 'gone' beside model.yaml"):
        load_model(write_letters(tmp_path / "one", reference="gone"))
    with pytest.raises(DatasetError, match=r"old.jsonl: name requests .* none of them, .* line 1: 503"):
        built(write_letters(tmp_path / "two", ["no"]))
    assert not any((tmp_path / "two" / "store").glob("*.mar"))


# -- what it is good for ------------------------------------------------------------------------


def test_drift_needs_no_other_reference(letters: Path, archive: mar.Archive, tmp_path: Path) -> None:
    """The same as with its requests; but those that are given win."""
    page = tmp_path / "page.html"
    words = ("drift", archive.path, "--data", letters / "new.csv", "--json")
    carried = json.loads(typed(*words, "--report", page, code=1))
    given = json.loads(typed(*words, "--reference", letters / "old.jsonl", code=1))
    assert (carried["against"], carried["reference"]) == (mar.REFERENCE, 60)
    assert carried["figures"] == given["figures"]
    assert {"class", "confidence", "bytes of the request"} <= {*carried["drifted"]}
    assert mar.REFERENCE in page.read_text()
    assert json.loads(typed(*words, "--reference", letters / "new.csv"))["drifted"] == []


def test_both_sets_are_answered_by_one_worker(
    letters: Path, archive: mar.Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, load = [], Worker.load

    def counted(*given: Any, **more: Any) -> Worker:
        loaded.append(given)
        return load(*given, **more)

    monkeypatch.setattr(Worker, "load", counted)
    typed("drift", archive.path, "--data", letters / "old.jsonl", "--reference", letters / "old.jsonl")
    assert len(loaded) == 1


def test_drift_without_any_reference(tmp_path: Path, archive: mar.Archive, letters: Path) -> None:
    """The error says what to do."""
    bare = pack.variant(archive, tmp_path / "bare.mar", {mar.REFERENCE: None})
    said = refused("drift", bare.path, "--data", letters / "new.csv")
    assert "--reference: name requests that the model was made for, or build it with `reference`" in said


def test_inspect_shows_it(archive: mar.Archive) -> None:
    said = typed("inspect", archive.path)
    assert "Reference of 60 requests, 20 refused: bytes of the request, confidence, class, outcome" in said
    shown = json.loads(typed("inspect", archive.path, "--json"))["reference"]
    assert (shown["answered"], shown["figures"][-1]) == (60, "outcome")


# -- who may have made it -----------------------------------------------------------------------

NUMBERS = {"edges": [1.0], "counts": [2, 3], "sample": [0.5, 1.5]}
CONTENT = {
    "form": 1,
    "answered": 5,
    "refused": 0,
    "data_sha256": "",
    "numbers": {"size": NUMBERS},
    "classes": {"class": {"a": 5}},
    "vectors": {"vector scores": [[0.25, 0.75], [1.0, 0.0]]},
}


def test_what_is_written_is_read() -> None:
    """Also a figure with few values, of more classes and vectors than are kept."""
    figures = Figures(count=3000)
    for number in range(3000):
        figures.add("size", number / 7)
        figures.add("class", f"c{number % 1500}")
        figures.vectors.setdefault("vector scores", []).append((float(number), 0.5))
    figures.add("rare", 1e-9)
    reference = Reference.of(figures, "0" * 64)
    assert parsed_reference(json.loads(json.dumps(reference.as_json()))) == reference
    assert (len(reference.numbers["size"].sample), len(reference.vectors["vector scores"])) == (500, 200)
    assert len(reference.classes["class"]) == 1001
    assert reference.classes["class"]["(others)"] == 1000


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"form": 2}, "expected form 1, found 2"),
        ({"answered": -1}, "answered: expected a count"),
        ({"refused": True}, "refused: expected a count"),
        ({"data_sha256": 7}, "data_sha256: expected a text"),
        ({"numbers": []}, "numbers: expected an object"),
        ({"numbers": {"size": 1}}, "numbers.size: expected an object"),
        ({"numbers": {"size": {**NUMBERS, "edges": [2, 1]}}}, "numbers.size.edges: expected numbers in asc"),
        ({"numbers": {"size": {**NUMBERS, "edges": [math.nan]}}}, "numbers.size.edges: expected finite"),
        ({"numbers": {"size": {**NUMBERS, "edges": [10**400]}}}, "numbers.size.edges: expected finite"),
        ({"numbers": {"size": {**NUMBERS, "counts": [2]}}}, "numbers.size.counts: expected 2 counts"),
        ({"numbers": {"size": {**NUMBERS, "counts": [2, 0.5]}}}, "numbers.size.counts.1: expected a count"),
        ({"numbers": {"size": {**NUMBERS, "sample": []}}}, "numbers.size.sample: expected numbers in asc"),
        ({"classes": {"class": {"a": "b"}}}, "classes.class.a: expected a count"),
        ({"vectors": {"v": [[1.0], [1.0, 2.0]]}}, "vectors.v: expected vectors of one length"),
        ({"vectors": {"v": [1.0]}}, "vectors.v: expected a list of numbers"),
    ],
)
def test_what_a_stranger_wrote(wrong: dict[str, Any], where: str) -> None:
    parsed_reference(CONTENT)
    with pytest.raises(ValueError, match=f"^{re.escape(where)}"):
        parsed_reference({**CONTENT, **wrong})


def test_a_strangers_file_is_no_traceback(archive: mar.Archive, tmp_path: Path, letters: Path) -> None:
    """The commands say what is wrong, where, and what to do; inspect shows the rest."""
    for number, content in enumerate((b"[]", b"{", json.dumps({**CONTENT, "form": 7}).encode())):
        odd = pack.variant(archive, tmp_path / f"{number}.mar", {mar.REFERENCE: content})
        with pytest.raises(ArchiveCorrupt, match=mar.REFERENCE):
            reference_of(odd)
        assert mar.REFERENCE in typed("inspect", odd.path)
        said = refused("drift", odd.path, "--data", letters / "new.csv")
        assert mar.REFERENCE in said
    assert "give --reference, or build the archive again" in said
