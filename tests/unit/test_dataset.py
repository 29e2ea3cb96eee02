"""Data sets: folders and tables become requests with labels, and a fault is told with its line."""

from __future__ import annotations

import csv
import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchmar.dataset import Example, digest, labels_of, read_dataset
from torchmar.errors import DatasetError
from torchmar.files import BINARY, JSON, TEXT


def table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    """The first folder's name is the label, whatever is below it; hidden files are passed over."""
    for name in (
        "dog/b.jpg",
        "cat/a.jpg",
        "cat/young/c.txt",
        "cat/.DS_Store",
        "cat/.hidden/d.jpg",
        ".git/config",
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode())
    found = read_dataset(tmp_path)
    assert [(one.name, one.label, one.content_type) for one in found] == [
        ("cat/a.jpg", "cat", BINARY),
        ("cat/young/c.txt", "cat", TEXT),
        ("dog/b.jpg", "dog", BINARY),
    ]
    assert (found[0].read(), found[0].size()) == (b"cat/a.jpg", 9)


def test_a_folder_without_classes(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1]")
    [found] = read_dataset(tmp_path)
    assert (found.label, found.content_type) == (None, JSON)
    with pytest.raises(DatasetError, match=r"give each request a label, .*: a\.json have none"):
        labels_of([found])


@pytest.mark.parametrize(
    ("row", "body", "content_type", "attributes"),
    [
        ({"text": "hi", "lang": "en", "label": "x"}, b"hi", TEXT, {"lang": "en"}),
        ({"request": {"user": 1}, "label": "x"}, b'{"user": 1}', JSON, {}),
        ({"request": [1, 2], "label": "x"}, b"[1, 2]", JSON, {}),
        ({"a": 1, "b": None, "label": "x"}, b'{"a": 1, "b": null}', JSON, {"a": 1, "b": None}),
    ],
)
def test_a_row_of_json_lines(
    tmp_path: Path, row: Any, body: bytes, content_type: str, attributes: dict[str, Any]
) -> None:
    [found] = read_dataset(table(tmp_path / "t.jsonl", json.dumps(row)))
    assert found == Example("line 1", body, content_type, "x", attributes)


def test_a_row_that_names_a_file(tmp_path: Path) -> None:
    """Relative to the table."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"png")
    [found] = read_dataset(table(tmp_path / "t.csv", "file,label,site", "pictures/a.png,3,north"))
    assert (found.read(), found.label, found.attributes) == (b"png", 3, {"site": "north"})


def test_another_column_of_labels(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", "a,b,kind", "1,x,good")
    [found] = read_dataset(path, label="kind")
    assert (found.label, json.loads(found.read())) == ("good", {"a": 1, "b": "x"})
    with pytest.raises(DatasetError, match="name a column with labels: no row has 'klass'"):
        read_dataset(path, label="klass")


def test_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"body": [b"one", b"two"], "label": [0, 1]}), tmp_path / "t.parquet")
    found = read_dataset(tmp_path / "t.parquet")
    assert [(one.read(), one.label, one.content_type) for one in found] == [
        (b"one", 0, BINARY),
        (b"two", 1, BINARY),
    ]


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("t.csv", ("a,b", "1,2,3"), r"line 2: 1 more cells than the first line has names"),
        ("t.csv", ("a,b", "1"), r"line 2: 1 fewer cells than the first line has names"),
        ("t.csv", ("file,label", "no.png,1"), r"line 2: file: no such file"),
        ("t.jsonl", ("{}", "{"), r"line 2: no JSON"),
        ("t.jsonl", ("[1]",), r"line 1: expected an object, found list"),
        ("t.parquet", ("x",), r"no Parquet file|pip install"),
        ("t.csv", ("a,b",), r"it holds none"),
        ("t.csv", ("a,a,b", "1,2,3"), r"give each column a name of its own: a stands twice"),
        ("t.csv", ("file,label", ",1"), r"line 2: file: no such file"),
        ("t.jsonl", ('{"a": NaN}',), r"line 1: write dates as texts.* it cannot be sent as JSON"),
        ("t.txt", ("a",), r"give a folder, or a table"),
    ],
)
def test_mistakes(tmp_path: Path, name: str, lines: tuple[str, ...], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_dataset(table(tmp_path / name, *lines))


def test_nothing_is_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file or folder"):
        read_dataset(tmp_path / "none")
    with pytest.raises(DatasetError, match="it holds none"):
        read_dataset(tmp_path)


CELLS = st.one_of(
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1),
)


@given(st.lists(st.fixed_dictionaries({"a": CELLS, "b": CELLS}), min_size=1, max_size=5))
def test_cells_keep_what_they_say(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    """A number is read as that number; text that is no number as itself: `007` is a name."""
    path = tmp_path_factory.mktemp("t") / "t.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["a", "b"])
        writer.writeheader()
        writer.writerows(rows)
    for example, row in zip(read_dataset(path), rows, strict=True):
        found = json.loads(example.read())
        for key, value in row.items():
            if isinstance(value, str) and isinstance(found[key], str):
                assert found[key] == value
            else:  # exactly that number, in whatever way it is written
                assert Decimal(str(value)) == Decimal(str(found[key])) or float(value) == found[key]


def test_what_looks_like_a_number_and_is_none(tmp_path: Path) -> None:
    names = ["007", "1_000", "1e999", "+1", "0x10", "1.", "nan", "٣"]
    path = table(tmp_path / "t.csv", "a,label", *(f"{name},x" for name in names))
    assert [json.loads(one.read())["a"] for one in read_dataset(path)] == names


def test_a_text_is_sent_as_it_is(tmp_path: Path) -> None:
    """A cell that looks like a number, and an empty one."""
    found = read_dataset(table(tmp_path / "t.csv", "text,label", "42,a", ",b"))
    assert [(one.read(), one.content_type) for one in found] == [(b"42", TEXT), (b"", TEXT)]


@pytest.mark.parametrize(
    ("cell", "label"), [("1.10", "1.10"), ("1e3", "1e3"), ("-0", "-0"), ("3", 3), ("1.0", 1)]
)
def test_labels_are_numbers_only_where_they_are_written_so(tmp_path: Path, cell: str, label: Any) -> None:
    [found] = read_dataset(table(tmp_path / "t.csv", "a,label", f"1,{cell}"))
    assert (found.label, type(found.label)) == (label, type(label))


def test_a_line_ends_at_a_newline_alone(tmp_path: Path) -> None:
    """U+2028 and U+0085 may stand in a text."""
    text = "one\u2028two\u0085three"
    [found] = read_dataset(table(tmp_path / "t.jsonl", json.dumps({"text": text}, ensure_ascii=False)))
    assert found.read().decode() == text


def test_large_cells(tmp_path: Path) -> None:
    [found] = read_dataset(table(tmp_path / "t.csv", "text,label", f"{'x' * 200_000},a"))
    assert len(found.read()) == 200_000


def test_links_and_what_cannot_be_read(tmp_path: Path) -> None:
    """A link to the folder itself is no class; a folder that cannot be read is an error."""
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.json").write_text("1")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert [one.name for one in read_dataset(tmp_path)] == ["cat/a.json"]


def test_parquet_with_what_json_lacks(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"day": [date(2026, 1, 2)], "label": [1.0]}), tmp_path / "days.parquet")
    with pytest.raises(DatasetError, match="row 1: write dates as texts"):
        read_dataset(tmp_path / "days.parquet")
    pq.write_table(
        pa.table({"body": [{"bytes": b"png", "path": "a"}], "label": [1.0]}), tmp_path / "t.parquet"
    )
    [found] = read_dataset(tmp_path / "t.parquet")
    assert (found.read(), found.label) == (b"png", 1)


def test_the_digest_tells_data_apart(tmp_path: Path) -> None:
    one = [Example("a", b"x", TEXT, 1)]
    assert digest(one) == digest([Example("other name", b"x", TEXT, 1)])
    assert (
        len({digest(one), digest([Example("a", b"y", TEXT, 1)]), digest([Example("a", b"x", TEXT, 2)])}) == 3
    )
