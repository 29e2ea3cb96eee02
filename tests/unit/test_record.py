"""Recording in the handler: what is kept, what is not, and that no request ever fails because of it."""

from __future__ import annotations

import base64
import errno
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from handlers.worker.record import RecordConfig, Recorder, body_of
from torchmar.archive import _write_config
from torchmar.errors import SpecError
from torchmar.measure.recorded import read_recorded
from torchmar.measure.tune._served import config_of
from torchmar.measure.tune._values import Candidate
from torchmar.spec import load_model

from ..conftest import TINY
from .test_batch_handler import SECTION, Multiplier, context_for

PICTURE = bytes(range(256))


def recorder(folder: Path, **options: Any) -> Recorder:
    return Recorder(RecordConfig(str(folder), **options), "mine", "1.0")


def file_of(folder: Path) -> Path:
    return folder / f"mine-1.0-{os.getpid()}.jsonl"


def kept(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in file_of(folder).read_text().splitlines()]


def test_what_a_line_holds(tmp_path: Path) -> None:
    """A picture in base64, JSON as JSON; in a file for the server's user alone."""
    keeping = recorder(tmp_path)
    keeping.keep({"body": bytearray(PICTURE)}, "image/png")
    keeping.keep({"body": {"data": {"b64": "eA=="}}}, "application/json")
    picture, spoken = kept(tmp_path)
    assert (picture["model"], picture["version"], picture["content_type"]) == ("mine", "1.0", "image/png")
    assert base64.b64decode(picture["body"]) == PICTURE
    assert picture["at"] > 1_700_000_000
    assert spoken["json"] == {"data": {"b64": "eA=="}}
    assert file_of(tmp_path).stat().st_mode & 0o777 == 0o600


def test_what_was_kept_is_read_again(tmp_path: Path) -> None:
    """The body and its type come back, to the bit where it is not JSON."""
    keeping = recorder(tmp_path)
    keeping.keep({"body": bytearray(PICTURE)}, "image/png")
    keeping.keep({"body": {"ü": [1.5, "\ud800"]}}, "application/json")
    picture, spoken = read_recorded([tmp_path / "mine-*.jsonl"], "mine")
    assert (picture.body, picture.content_type) == (PICTURE, "image/png")
    assert (json.loads(spoken.body), spoken.content_type) == ({"ü": [1.5, "\ud800"]}, "application/json")
    assert picture.name == f"{file_of(tmp_path).name}:1"


@pytest.mark.parametrize(
    ("request_", "content_type", "fields", "expected"),
    [
        ({"body": b"x"}, "", None, (b"x", "application/octet-stream")),
        ({"data": b"x", "note": b"n"}, "multipart/form-data; b", None, (b"x", "application/octet-stream")),
        ({"data": "x"}, "application/x-www-form-urlencoded", None, (b"x", "application/octet-stream")),
        ({"body": "text"}, "text/plain", None, (b"text", "text/plain")),
        ({"body": b"{damaged"}, "application/json", None, (b"{damaged", "application/json")),
        ({"body": {"a": 1, "b": 2}}, "application/json", ("b", "c"), (b'{"b":2}', "application/json")),
        ({"body": b' {"a": 1, "b": 2}'}, "image/png", ("a",), (b'{"a":1}', "application/json")),
        ({"body": '{"a": 1, "b": 2}'}, "text/plain", ("a",), (b'{"a":1}', "application/json")),
        ({"body": [1]}, "application/json", ("a",), None),
        ({"body": b"[1]"}, "", ("a",), None),
        ({"body": '{"a": 1, "b": 2}'.encode("utf-8-sig")}, "", ("a",), (b'{"a":1}', "application/json")),
        ({"body": '{"a": 1, "b": 2}'.encode("utf-16")}, "", ("a",), (b'{"a":1}', "application/json")),
        ({"body": '\ufeff{"a": 1, "b": 2}'}, "text/plain", ("a",), (b'{"a":1}', "application/json")),
        ({"body": "secret"}, "application/json", ("a",), None),
        ({"body": '"secret"'}, "text/plain", ("a",), None),
        ({"body": "é"}, "application/json", None, (b'"\\u00e9"', "application/json")),
        ({"body": PICTURE}, "image/png", ("a",), (PICTURE, "image/png")),
        ({"hello": ""}, "application/x-www-form-urlencoded", None, None),
        ({}, "", None, None),
    ],
)  # fmt: skip
def test_what_is_kept_of_a_request(
    request_: Mapping[str, Any], content_type: str, fields: tuple[str, ...] | None, expected: Any
) -> None:
    """A body that asks the same of a handler; with `fields` nothing of JSON besides them."""
    found = body_of(request_, content_type, fields)
    assert (None if found is None else (found.body, found.content_type)) == expected


def test_large_requests_are_not_kept(tmp_path: Path) -> None:
    """Up to max_bytes_each, as bytes and as JSON."""
    keeping = recorder(tmp_path, max_bytes_each=10)
    for body in (b"0123456789", b"0123456789x", {"a": "0123456789"}, {"a": 1}):
        keeping.keep({"body": body}, "application/json" if isinstance(body, dict) else "")
    assert [line.get("json", line.get("body")) for line in kept(tmp_path)] == [
        base64.b64encode(b"0123456789").decode(),
        {"a": 1},
    ]


def test_it_stops_at_the_total_of_all_workers(tmp_path: Path) -> None:
    """Files of workers that have died count, those of other versions do not."""
    (tmp_path / "mine-1.0-1.jsonl").write_bytes(b"x" * 700)
    (tmp_path / "mine-2.0-1.jsonl").write_bytes(b"x" * 5000)
    keeping = recorder(tmp_path, max_bytes_total=1000)
    for _ in range(9):
        keeping.keep({"body": b"x"}, "")
    sizes = [path.stat().st_size for path in tmp_path.glob("mine-1.0-*")]
    assert 1 <= len(kept(tmp_path)) < 9
    assert sum(sizes) <= 1000


def test_the_share_is_drawn(tmp_path: Path) -> None:
    """A tenth of 1,000, give or take; none at 0."""
    keeping = recorder(tmp_path, share=0.1)
    for _ in range(1000):
        keeping.keep({"body": b"x"}, "")
    assert 50 < len(kept(tmp_path)) < 170
    silent = recorder(tmp_path / "missing", share=0)
    silent.keep({"body": b"x"}, "")


def test_a_folder_that_is_not_there_means_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is not made, nobody is told; once it is there, recording begins, in a worker that runs already."""
    folder = tmp_path / "later"
    keeping = recorder(folder)
    keeping.keep({"body": b"x"}, "")
    assert not folder.exists()
    assert caplog.records == []
    folder.mkdir()
    keeping.keep({"body": b"x"}, "")
    assert len(kept(folder)) == 1


def test_a_full_disk_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And goes on to be nobody's problem."""

    def full(file: int, line: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    keeping = recorder(tmp_path)
    for _ in range(3):
        keeping.keep({"body": b"x"}, "")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "No space left" in caplog.text


def test_nothing_follows_half_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that took a part of it: the file still reads, less that line."""
    keeping = recorder(tmp_path)
    keeping.keep({"body": b"whole"}, "")
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, line: real(file, line[:20]))
    keeping.keep({"body": b"half"}, "")
    monkeypatch.undo()
    keeping.keep({"body": b"never"}, "")
    assert [request.body for request in read_recorded([file_of(tmp_path)], "mine")] == [b"whole"]


def test_it_does_not_write_through_a_link(tmp_path: Path) -> None:
    """In a folder where others may write, a link of theirs would lead requests elsewhere."""
    elsewhere = tmp_path / "elsewhere"
    file_of(tmp_path).symlink_to(elsewhere)
    recorder(tmp_path).keep({"body": b"x"}, "")
    assert not elsewhere.exists()


def test_a_name_stays_in_the_folder(tmp_path: Path) -> None:
    """Whatever a stranger's archive is called."""
    Recorder(RecordConfig(str(tmp_path)), "../../mine", "1/0").keep({"body": b"x"}, "")
    assert [path.name for path in tmp_path.iterdir()] == [f".._.._mine-1_0-{os.getpid()}.jsonl"]


# -- in the handler -----------------------------------------------------------------------------


def test_the_handler_records_predictions_and_nothing_else(tmp_path: Path) -> None:
    """Each request of a batch, the refused one too; not one that asks about the model."""
    handler = Multiplier()
    handler.initialize(context_for(config={"handler": {**SECTION, "record": {"folder": str(tmp_path)}}}))
    headers = [{}, {"content-TYPE": "image/png"}, {"describe": "True"}]
    bodies: list[Any] = [[1, 2], "refuse", 3]
    answers = handler.handle([{"body": body} for body in bodies], context_for(headers))
    assert len(answers) == 3
    file = next(tmp_path.glob("doubler-1.0-*.jsonl"))
    lines = [json.loads(text) for text in file.read_text().splitlines()]
    assert [line.get("json", line.get("body")) for line in lines] == [
        [1, 2],
        base64.b64encode(b"refuse").decode(),
    ]
    assert [line["content_type"] for line in lines] == ["application/json", "image/png"]


def test_the_handler_answers_though_recording_fails(tmp_path: Path) -> None:
    """A file where the folder should be."""
    file = tmp_path / "file"
    file.write_text("")
    handler = Multiplier()
    handler.initialize(context_for(config={"handler": {**SECTION, "record": {"folder": str(file)}}}))
    assert handler.handle([{"body": 3}], context_for([{}])) == ["6.0"]


# -- in model.yaml ------------------------------------------------------------------------------


def test_model_yaml_knows_it_and_is_without_by_default() -> None:
    """Off unless asked for; the defaults are the handler's."""
    assert load_model(TINY).spec.record is None
    record = load_model(TINY, {"record": {"folder": "/var/rec"}}).spec.record
    assert record is not None
    theirs = RecordConfig("/var/rec")
    for key in ("folder", "share", "max_bytes_each", "max_bytes_total", "fields"):
        assert getattr(record, key) == getattr(theirs, key)


def test_it_comes_with_the_archive_and_not_into_a_measurement(tmp_path: Path) -> None:
    """The handler reads what model.yaml says; `tune` sends the same picture thousands of times."""
    record = {"folder": str(tmp_path), "share": 0.5, "fields": ["instances"]}
    _write_config(load_model(TINY), {"handler": {"record": record}}, tmp_path)
    config = yaml.safe_load((tmp_path / "model-config.yaml").read_text())
    assert RecordConfig.of(config["handler"]["record"]) == RecordConfig(
        str(tmp_path), share=0.5, fields=("instances",)
    )
    assert "record" not in config_of(config, Candidate(1, 1, 1, 0))["handler"]


@pytest.mark.parametrize(
    ("record", "match"),
    [
        ({"folder": "relative"}, "record.folder: found 'relative'"),
        ({"folder": "/a", "share": 2}, "record.share"),
        ({"folder": "/a", "max_byte_each": 2}, "did you mean max_bytes_each"),
        ({}, "record.folder: missing"),
    ],
)
def test_model_yaml_says_what_is_wrong(record: dict[str, Any], match: str) -> None:
    """Key by key, as in every other section."""
    with pytest.raises(SpecError, match=match):
        load_model(TINY, {"record": record})
