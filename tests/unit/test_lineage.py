"""What an archive was built from: written with it, read back, and refused where nobody could read it."""

from __future__ import annotations

import json
import re
import shutil
import textwrap
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from torchmar import archive as archive_module
from torchmar import mar, pack
from torchmar.archive import build
from torchmar.errors import ArchiveCorrupt, ArchiveError, ArchiveExists
from torchmar.export import Weights
from torchmar.lineage import Lineage, Metric, Parent
from torchmar.spec import load_model

TINY = Path(__file__).resolve().parents[2] / "tests" / "models" / "tiny"
SHA, OTHER = "ab" * 32, "cd" * 32
WHOLE = Lineage(
    parent=Parent("tiny", "1.0", SHA),
    data={"train": SHA, "test": OTHER},
    revision="16ab3ac357b434ffea4543a3c5a0a14c35d12810-dirty",
    seed=7,
    weights_sha256=OTHER,
    metrics={
        "top 5": Metric(0.99, 0.98, 1.0, 360, OTHER),
        "accuracy": Metric(0.9722, 0.9498, 0.9848, 360, OTHER),
    },
)


def test_what_is_written_is_read() -> None:
    """The main metric stays the first; nothing known is nothing said."""
    again = Lineage.of(json.loads(WHOLE.as_bytes()))
    assert again == WHOLE
    assert list(again.metrics) == ["top 5", "accuracy"]
    assert Lineage.of({}) == Lineage()
    assert (Lineage().origin(), Lineage().measured()) == ("", [])


def test_in_words() -> None:
    """One line each, with the first digits of digests."""
    assert WHOLE.origin() == (
        "from tiny 1.0 (sha256 abababababab…), revision 16ab3ac357b4-dirty, seed 7, weights cdcdcdcdcdcd…, "
        "data train abababababab…, test cdcdcdcdcdcd…"
    )
    assert WHOLE.measured() == [
        "top 5 0.99 [0.98, 1] on 360 examples",
        "accuracy 0.9722 [0.9498, 0.9848] on 360 examples",
    ]
    assert replace(WHOLE, revision="release 12").origin().count("revision release 12") == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"parent": "tiny"}, "parent: expected an object, found 'tiny'"),
        ({"parent": {"version": "1.0", "sha256": SHA}}, "parent.name: expected a text, found None"),
        ({"parent": {"name": "x", "version": 1, "sha256": SHA}}, "parent.version: expected a text, found 1"),
        ({"data": [SHA]}, "data: expected an object"),
        ({"data": {"train": SHA.upper()}}, "data.train: expected a SHA-256 of 64 lower-case"),
        ({"revision": "a\nb"}, "revision: expected one line of at most 200 characters, found 'a\\nb'"),
        ({"revision": ""}, "revision: expected one line"),
        ({"seed": -1}, "seed: expected a whole number of at least 0, found -1"),
        ({"seed": True}, "seed: expected a whole number"),
        ({"weights_sha256": 5}, "weights_sha256: expected a SHA-256"),
        ({"metrics": {"f1": 0.5}}, "metrics.f1: expected an object, found 0.5"),
        ({"metrics": {"f1": {"value": "0.5"}}}, "metrics.f1.value: expected a finite number, found '0.5'"),
        ({"metrics": {"f1": {"value": float("nan")}}}, "metrics.f1.value: expected a finite number"),
        ({"metrics": {"f1": {"value": 10**400}}}, "metrics.f1.value: expected a finite number"),
        (
            {"metrics": {"f1": {"value": 1, "low": 2, "high": 1, "examples": 9, "data_sha256": SHA}}},
            "metrics.f1: expected low that is at most high, found '2 and 1'",
        ),
    ],
)
def test_a_stranger_writes_something_else(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    """It is told by its key, and with the archive's path."""
    with pytest.raises(ValueError, match="expected") as wrong:
        Lineage.of({**WHOLE.as_json(), **changed})
    assert message in str(wrong.value)
    path = tmp_path / "strange.mar"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(mar.MANIFEST, json.dumps({"model": {"modelName": "m", "handler": "h.py"}}))
        archive.writestr("h.py", "")
        archive.writestr(mar.LINEAGE, json.dumps({**WHOLE.as_json(), **changed}))
    with pytest.raises(ArchiveCorrupt) as corrupt:
        mar.read(path)
    assert str(corrupt.value) == f"{path}: MAR-INF/lineage.json: {wrong.value}"


TEXTS = st.text(st.characters(), max_size=5)  # with halves of UTF-16 pairs, which JSON can hold
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@example(
    content={"metrics": {"\ud800": {"value": 1, "low": 0, "high": 1, "examples": 1, "data_sha256": SHA}}}
)
@given(content=JSON | st.dictionaries(st.sampled_from([*Lineage().as_json()]), JSON))
def test_anything_is_read_or_refused(content: Any) -> None:
    """By a ValueError of one line, and what is read can be written and said."""
    try:
        found = Lineage.of(content)
    except ValueError:
        with pytest.raises(ValueError, match=r"^[^\n]*: expected [^\n]*, found [^\n]*$"):
            Lineage.of(content)
    else:
        assert Lineage.of(json.loads(found.as_bytes())) == found
        assert "".join((found.origin(), *found.measured())).isprintable()


def test_a_build_writes_what_it_is_told(tiny_eager: Path, tmp_path: Path) -> None:
    """Once: the same lineage is up to date, another one is another archive; without one, no byte changes."""
    source = load_model(TINY, {"version": "1.1", "runtime": "eager"})
    weights = tmp_path / "w.pth"
    with zipfile.ZipFile(tiny_eager) as archive:
        assert mar.LINEAGE not in archive.namelist()
        [name] = [one for one in archive.namelist() if one.endswith(".pth")]
        weights.write_bytes(archive.read(name))
    told = replace(WHOLE, weights_sha256=None)
    built = build(source, tmp_path, weights=Weights(str(weights)), lineage=told)
    assert built.archive.lineage == replace(told, weights_sha256=mar.file_sha256(weights))
    assert mar.verify(built.archive.path).lineage == built.archive.lineage
    assert built.archive.as_parent() == Parent("tiny", "1.1", built.archive.sha256)
    assert build(source, tmp_path, weights=Weights(str(weights)), lineage=told).was_there
    for other in (replace(told, seed=8), None):
        with pytest.raises(ArchiveExists):
            build(source, tmp_path, weights=Weights(str(weights)), lineage=other)


@pytest.mark.parametrize(
    ("lineage", "message"),
    [
        (Lineage(Parent("tiny", "1.0", SHA)), "tiny 1.0: choose another `version`: its parent has the same"),
        (Lineage(seed=-1), "tiny 1.0: its lineage: seed: expected a whole number"),
    ],
)
def test_a_lineage_that_cannot_be(lineage: Lineage, message: str, tmp_path: Path) -> None:
    """Refused before anything is built."""
    with pytest.raises(ArchiveError, match="tiny") as refused:
        build(load_model(TINY), tmp_path / "store", lineage=lineage)
    assert message in str(refused.value)
    assert not (tmp_path / "store").exists()


def test_a_variant_keeps_it_where_the_model_is_the_same(tiny_eager: Path, tmp_path: Path) -> None:
    """Another model has another lineage; what is given wins."""
    archive = mar.verify(tiny_eager)
    given_one = pack.variant(archive, tmp_path / "a", {mar.LINEAGE: WHOLE.as_bytes()})
    assert (given_one.lineage, given_one.parity) == (WHOLE, archive.parity)
    again = mar.verify(given_one.path)
    assert pack.variant(again, tmp_path / "b", {"model-config.yaml": b"minWorkers: 2\n"}).lineage == WHOLE
    assert pack.variant(again, tmp_path / "c", {"handler.py": b""}).lineage is None


def test_what_the_docs_show_from_python(
    tiny_eager: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/lineage.md's block, up to the build: the next version, its parent, data and metric."""
    text = (TINY.parents[2] / "docs" / "lineage.md").read_text(encoding="utf-8")
    [block] = re.findall(r"## From Python\n\n((?:    .*\n|\n)+)", text)
    for folder in ("data/train/a", "data/test/a"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "1.txt").write_text(folder)
    (tmp_path / "model_store").mkdir()
    shutil.copyfile(tiny_eager, tmp_path / "model_store" / "tiny-1.0.mar")
    shutil.copytree(TINY, tmp_path / "models" / "tiny")
    built: list[tuple[str, Lineage]] = []
    monkeypatch.setattr(
        archive_module, "build", lambda source, _, lineage: built.append((source.spec.version, lineage))
    )
    monkeypatch.chdir(tmp_path)
    exec(compile(textwrap.dedent(block).replace("mine", "tiny"), "docs/lineage.md", "exec"), {})
    [(version, lineage)] = built
    assert (version, lineage.parent) == ("1.1", mar.read(tiny_eager).as_parent())
    assert lineage.data["test"] == lineage.metrics["accuracy"].data_sha256 != lineage.data["train"]
