"""What commands print: JSON that is always valid, answers of any form, and nothing that a terminal obeys."""

from __future__ import annotations

import io
import json
import math
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from torchmar import cli
from torchmar.cli import app
from torchmar.cli._events import EventPrinter
from torchmar.cli._output import escape, json_text, print_json, print_table
from torchmar.cli._servers import ServerOptions
from torchmar.client import Prediction
from torchmar.errors import TorchmarError
from torchmar.release import Entry

NOT_JSON = {"nan": math.nan, "inf": [math.inf, -math.inf], "rows": [{"p50": math.nan, "ok": 1.5}]}

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=3) | st.integers() | st.floats() | st.booleans(), inner, max_size=4
        )
    ),
    max_leaves=10,
)


def strict(text: str) -> Any:
    """JSON as a strict reader has it."""

    def refuse(constant: str) -> Any:
        raise ValueError(constant)

    return json.loads(text, parse_constant=refuse)


@given(content=ANYTHING, indent=st.sampled_from([None, 2]))
def test_json_is_valid_whatever_it_is_of(content: Any, indent: int | None) -> None:
    """It is read by whoever is strict; it can be written as UTF-8, and drives no terminal."""
    text = json_text(content, indent=indent)
    strict(text)
    text.encode()
    assert all(each.isprintable() or each == "\n" for each in text)
    assert indent or "\n" not in text


def test_numbers_that_json_does_not_know_are_null() -> None:
    """Also within; what is text stays as it was, half a character and a bell included."""
    assert strict(json_text(NOT_JSON)) == {
        "nan": None,
        "inf": [None, None],
        "rows": [{"p50": None, "ok": 1.5}],
    }
    assert strict(json_text({"\udc80\x9b\x07é→": "\u202e\x7f"})) == {"\udc80\x9b\x07é→": "\u202e\x7f"}
    assert strict(json_text({math.nan: 1, Path("a"): 2, (1, 2): {3}})) == {"nan": 1, "a": 2, "(1, 2)": [3]}


@pytest.fixture
def usual_recursion() -> Iterator[None]:
    """What other tests import may have raised the limit of this process."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    yield
    sys.setrecursionlimit(limit)


@pytest.mark.usefixtures("usual_recursion")
def test_json_that_is_too_deep_is_told(tmp_path: Path) -> None:
    """A stranger's manifest may hold what json reads and cannot write; without --json it is shown."""
    path = tmp_path / "deep.mar"
    with zipfile.ZipFile(path, "w") as made:
        deep = "[" * 900 + "]" * 900
        made.writestr(
            "MAR-INF/MANIFEST.json", f'{{"x": {deep}, "model": {{"modelName": "m", "handler": "h"}}}}'
        )
    assert CliRunner().invoke(app, ["inspect", str(path)]).exit_code == 0
    told = CliRunner().invoke(app, ["inspect", str(path), "--json"])
    assert isinstance(told.exception, TorchmarError)
    assert "leave --json out" in str(told.exception)


def test_json_for_a_terminal_of_another_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has no character for is written as JSON does that."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", stream)
    print_json({"a": "é→"})
    stream.flush()
    assert strict(raw.getvalue().decode("ascii")) == {"a": "é→"}


def test_events_are_lines_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Each in one line, whatever is told in it; the result as the last."""
    printer = EventPrinter(events=True, json=True)
    printer(Entry("", "", "done", "a\nb", "gate", {"p": math.nan, "text": "\udc80\n"}))
    printer.print_last({"seconds": math.inf})
    event, last = capsys.readouterr().out.splitlines()
    assert strict(event)["data"] == {"p": None, "text": "\udc80\n"}
    assert strict(last) == {"seconds": None}


@given(st.text(st.characters()))
def test_what_is_printed_drives_no_terminal(text: str) -> None:
    """Lines end, and that is all; whatever is to be seen is seen."""
    clean = escape(text)
    clean.encode()
    assert not any(each in clean for each in "\x00\x07\x08\r\x1b\x7f\x9b\u2028\u202e\u200f")


def test_spaces_of_other_widths_stay() -> None:
    """A name in French has one before its colon."""
    assert escape("été\xa0: 猫\u3000犬") == "été\xa0: 猫\u3000犬"


def test_a_row_of_a_table_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a name or a reason holds."""
    print_table("a\nb", ["one", "two>"], [("x\ny\rz", 1), ("\x1b[2J", "\n")])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["a", "b"],
        ["one", "two"],
        ["x", "y\ufffdz", "1"],
        ["\ufffd[2J"],
    ]


# -- predict ------------------------------------------------------------------------------------


@dataclass
class Answers:
    """A server that answers so."""

    content: bytes

    @property
    def inference(self) -> Answers:
        return self

    def predict(self, *_: Any, **__: Any) -> Prediction:
        return Prediction(200, self.content, "", "", 0.01)


def answered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes, *options: str) -> str:
    @contextmanager
    def connect(_: ServerOptions) -> Iterator[Answers]:
        yield Answers(content)

    monkeypatch.setattr(ServerOptions, "connect", connect)
    file = tmp_path / "x.txt"
    file.write_text("x")
    done = CliRunner().invoke(app, ["predict", "m", str(file), *options])
    assert done.exception is None, done.exception
    assert done.exit_code == 0
    return done.stdout


@pytest.mark.parametrize(
    "content",
    [
        [{"label": "cat", "probability": 10**400}],
        [{"label": ["a"], "index": 3}],
        [{"label": "a\nb"}],
        [{"label": "a" * 1000}],
        [{"label": "cat"}, "dog"],
        [{"label": "cat"}, {}],
        [{"a": {"b": 1}}],
        [{"box": list(range(9))}],
        [{str(number): number for number in range(13)}],
        {"": 1},
        {"predictions": [[{"label": "cat"}]]},
        [],
        [[]],
        {},
        "text",
        "\x9b2J\ud800",
        3,
        True,
        None,
        [1.5, "a", None],
        [10**400],
    ],
)
def test_any_answer_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: Any) -> None:
    """What would lose something in a table is shown as the JSON that it is."""
    body = json.dumps(content).encode()
    title, shown = answered(monkeypatch, tmp_path, body).split("\n", 1)
    assert "x.txt" in title
    assert strict(shown) == content
    [told] = strict(answered(monkeypatch, tmp_path, body, "--json"))
    assert told["answer"] == content


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"plain text", "plain text"),
        (b"", ""),
        (b"[NaN, Infinity]", [None, None]),
        (b"[" * 5_000 + b"]" * 5_000, "[" * 5_000 + "]" * 5_000),
        (b"[" * 600 + b"]" * 600, ...),
        (b"no \xff text", None),
    ],
    ids=["text", "empty", "NaN", "deep", "less deep", "bytes"],
)
def test_what_is_no_json_is_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: bytes, expected: Any
) -> None:
    """As text; numbers that JSON does not know are null."""
    [told] = strict(answered(monkeypatch, tmp_path, body, "--json"))
    assert expected is ... or told["answer"] == expected
    answered(monkeypatch, tmp_path, body)


def test_what_cannot_be_sent_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each file, before any is sent; also one in a folder of somebody else's."""
    theirs = tmp_path / "theirs"
    opened = Path.is_file

    def is_file(path: Path) -> bool:
        if path == theirs:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path)

    monkeypatch.setattr(Path, "is_file", is_file)
    code = main(monkeypatch, "predict", "m", str(theirs), str(tmp_path), str(tmp_path / "none"))
    assert code == 1
    error = capsys.readouterr().err
    assert f"{theirs}: cannot be read: Permission denied" in error
    assert f"{tmp_path}: cannot be read: it is a folder" in error
    assert "none: cannot be read: no such file" in error


def test_a_file_that_nobody_thought_of_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the system refuses is told with its file."""

    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied", "/theirs")

    monkeypatch.setattr(cli, "app", refuse)
    assert main(monkeypatch, "status") == 1
    assert capsys.readouterr().err == "error: /theirs: Permission denied\n"


def main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["torchmar", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(str(ended.value.code))
