"""Recorded requests, from JSON lines and HAR; and their replay to two versions."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchmar.client import Prediction
from torchmar.errors import HandlerRefused, ReleaseError, TimedOut
from torchmar.measure.ask import send
from torchmar.measure.latency import TAIL_SAMPLES
from torchmar.measure.recorded import Limits, RecordedRequest, read_recorded
from torchmar.measure.replay import replay_recorded, several
from torchmar.measure.samples import Sample

from ..fake_server import Fake, as_server, version

BINARY = bytes(range(256))


def line(body: bytes = b"x", model: object = "mine", **changes: Any) -> str:
    content = {
        "at": 1.0,
        "model": model,
        "version": "1.0",
        "content_type": "image/png",
        "sha256": hashlib.sha256(body).hexdigest(),
        "body": base64.b64encode(body).decode(),
    }
    return json.dumps({**content, **changes}) + "\n"


def test_lines_of_several_files_in_order(tmp_path: Path) -> None:
    """By pattern and by name; those of another model are left out."""
    (tmp_path / "b.jsonl").write_text(line(b"3"))
    (tmp_path / "a.jsonl").write_text(line(b"1") + "\n" + line(b"no", model="other") + line(b"2"))
    (tmp_path / "[c].jsonl").write_text(line(b"4"))
    found = read_recorded([str(tmp_path / "?.jsonl"), tmp_path / "[c].jsonl"], "mine")
    assert [request.body for request in found] == [b"1", b"2", b"3", b"4"]
    assert [request.name for request in found] == ["a.jsonl:1", "a.jsonl:4", "b.jsonl:1", "[c].jsonl:1"]


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ("no json\n", "line 2: not a recorded request: not JSON"),
        ("[]\n", "line 2: .*expected an object, found list"),
        (line(model=3), "line 2: .*`model` is not text"),
        (line(body=b"x", sha256="0"), "line 2: .*does not fit its sha256"),
        (line(content_type=None), "line 2: .*`content_type` is missing"),
        (json.dumps({"model": "mine"}) + "\n", "line 2: .*`body` is missing"),
        (line(body_=1).replace('"body": "', '"body": "!'), "line 2: .*not base64"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, bad: str, match: str) -> None:
    """With its file and line."""
    file = tmp_path / "rec.jsonl"
    file.write_text(line() + bad + line())
    with pytest.raises(ReleaseError, match=rf"rec\.jsonl: {match}"):
        read_recorded([file], "mine")


def test_a_last_line_that_is_cut_off_is_left_out(tmp_path: Path) -> None:
    """Its writer is at it, or was killed."""
    file = tmp_path / "rec.jsonl"
    file.write_text(line() + line()[:30])
    assert len(read_recorded([file], "mine")) == 1


def test_no_more_is_sent_than_may_be(tmp_path: Path) -> None:
    """The first ones, no large ones, and of JSON nothing that was not named: as the handler records."""
    file = tmp_path / "rec.jsonl"
    bodies = [b"picture", b'{"text": "a", "name": "private"}', b"x" * 50, b'["private"]', b"{", b"last"]
    file.write_text("".join(map(line, bodies)))
    limits = Limits(requests=2, bytes_each=20, fields=("text", "lang"))
    found = read_recorded([file], "mine", limits)
    assert [request.body for request in found] == [b"picture", b'{"text":"a"}']
    assert [one.body for one in read_recorded([file], "mine", replace(limits, requests=9))][2:] == [b"last"]
    file.write_text(line(b"x" * 50))
    match = r"no request for mine that may be sent, and 1 that may not \(bodies of at most 20 bytes, of JSON"
    with pytest.raises(ReleaseError, match=match):
        read_recorded([file], "mine", limits)


def test_no_request_at_all_is_an_error(tmp_path: Path) -> None:
    """A replay of nothing would pass."""
    file = tmp_path / "rec.jsonl"
    file.write_text(line(model="other"))
    with pytest.raises(ReleaseError, match=r"rec\.jsonl: holds no request for mine"):
        read_recorded([file], "mine")
    with pytest.raises(ReleaseError, match=r"no such file, and no file matches it"):
        read_recorded([tmp_path / "*.har"], "mine")
    for content in (b"\xff\xff", b"\xff\xfe\x00"):
        file.write_bytes(content)
        with pytest.raises(ReleaseError, match="it is neither UTF-8 nor UTF-16 with a mark"):
            read_recorded([file], "mine")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le with a mark"])
def test_a_mark_that_an_editor_has_written_is_no_part_of_it(tmp_path: Path, encoding: str) -> None:
    """Also where files were put together, and each had one."""
    file, har = tmp_path / "rec.jsonl", tmp_path / "rec.har"

    def write(path: Path, *texts: str) -> None:
        if encoding.startswith("utf-16-le"):
            path.write_bytes(b"".join(("\ufeff" + text).encode("utf-16-le") for text in texts))
        else:
            path.write_bytes(b"".join(text.encode(encoding) for text in texts))

    write(file, line(b"1") + line(b"2").replace("\n", "\r\n"), line(b"3"))
    assert [request.body for request in read_recorded([file], "mine")] == [b"1", b"2", b"3"]
    post = {"text": "é", "mimeType": "text/plain"}
    request = {"method": "POST", "url": "http://h/predictions/mine", "postData": post}
    write(har, json.dumps({"log": {"entries": [{"request": request}]}}, ensure_ascii=False))
    assert [request.body for request in read_recorded([har], "mine")] == ["é".encode()]


def test_what_belongs_to_somebody_else_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even whether it is there may be asked."""

    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(
        ReleaseError, match=r"theirs\.jsonl: recorded requests cannot be read: Permission den"
    ):
        read_recorded([tmp_path / "theirs.jsonl"], "mine")


@given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "ignore")))
def test_no_file_is_more_than_an_error_of_ours(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    """Whatever is in it, as either form."""
    folder = tmp_path_factory.mktemp("any")
    for name in ("a.jsonl", "a.har"):
        (folder / name).write_bytes(text)
        with pytest.raises(ReleaseError):
            read_recorded([folder / name], "mine")


# -- HAR ----------------------------------------------------------------------------------------


def har(folder: Path, *requests: Any) -> Path:
    file = folder / "session.har"
    entries = [{"startedDateTime": "2025-01-01T00:00:00Z", "request": request} for request in requests]
    file.write_text(json.dumps({"log": {"version": "1.2", "entries": entries}}))
    return file


def asked(url: str, **post: Any) -> dict[str, Any]:
    return {"method": "POST", "url": url, "headers": [], "postData": {"mimeType": "text/plain", **post}}


B64 = base64.b64encode(BINARY).decode()


def test_predictions_of_a_har(tmp_path: Path) -> None:
    """Pinned or not, with a query or not; text as UTF-8, bytes from base64 wherever a tool writes it."""
    host = "https://ts.example/predictions"
    file = har(
        tmp_path,
        {"method": "GET", "url": "https://ts.example/ping"},
        asked(f"{host}/other", text="no"),
        asked(f"{host}/mine/1.0/more", text="no"),
        {"method": "GET", "url": f"{host}/mine"},
        asked(f"{host}/mine", text='{"ü": 1}', mimeType="application/json"),
        asked(f"{host}/m%69ne/1.0?x=1", text=B64, encoding="base64"),
        asked(f"{host}/mine", text=B64, _encoding="base64"),
        asked(f"{host}/mine", _content={"text": B64, "encoding": "base64"}),
        {**asked(f"{host}/mine"), "_content": {"text": B64, "encoding": "base64"}},
    )
    found = read_recorded([file], "mine")
    assert [request.body for request in found] == ['{"ü": 1}'.encode(), BINARY, BINARY, BINARY, BINARY]
    assert found[0] == RecordedRequest("session.har:log.entries[4]", '{"ü": 1}'.encode(), "application/json")


@pytest.mark.parametrize(
    ("request_", "match"),
    [
        (asked("http://h/predictions/mine", params=[]), r"log\.entries\[0\]: .*postData has no text"),
        (asked("http://h/predictions/mine", text="a\ufffdb"), r"log\.entries\[0\]: .*has lost bytes"),
        (asked("http://h/predictions/mine", text="!", encoding="base64"), r"not base64"),
        (asked("http://h/predictions/mine", text="!", encoding="gzip"), r"encoding 'gzip' is not known"),
        ({"url": "http://[h/"}, r"log\.entries\[0\]: .*its url is none"),
        ({}, r"log\.entries\[0\]: .*`url` is missing"),
        ([], r"log\.entries\[0\]"),
    ],
)
def test_what_cannot_be_replayed_is_named(tmp_path: Path, request_: Any, match: str) -> None:
    """With its entry and what to do instead."""
    with pytest.raises(ReleaseError, match=match):
        read_recorded([har(tmp_path, request_)], "mine")


def test_what_is_no_har_is_an_error(tmp_path: Path) -> None:
    """JSON of another kind."""
    file = tmp_path / "a.har"
    file.write_text('{"log": {}}')
    with pytest.raises(ReleaseError, match=r"a\.har: not HAR 1\.2"):
        read_recorded([file], "mine")


# -- shadow -------------------------------------------------------------------------------------


class Server(Fake):
    """Refuses `bad`, and is silent at `slow`; `asked` are the version and the body of each request."""

    def __init__(self) -> None:
        versions = {number: version(number, model="mine") for number in ("1.0", "2.0")}
        super().__init__("local", "1.0", versions, model="mine")
        self.asked: list[tuple[str | None, Any]] = []

    def predict(self, name: str, data: Any = None, *, version: str | None = None, **more: Any) -> Prediction:
        assert more["timeout"] == 9.0
        self.asked.append((version, data))
        if data == b"bad":
            raise HandlerRefused("400: no", status=400, body="no", reason="no")
        if data == b"slow" and version == "2.0":
            raise TimedOut("silent")
        self.answer = lambda number: f"{number} {more['content_type']}".encode()
        return super().predict(name, data, version=version, **more)


class Empty:
    """Queues in which nothing waits."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def ask(self, version: str, request: RecordedRequest, timeout: float) -> Sample:
        return send(as_server(self._server).inference, "mine", version, request, timeout)


def replayed(bodies: list[bytes]) -> tuple[Any, Server]:
    server = Server()
    requests = [RecordedRequest(f"r:{n}", body, "") for n, body in enumerate(bodies)]
    queues: Any = Empty(server)
    return replay_recorded(queues, "1.0", "2.0", requests, timeout=9.0), server


def test_each_version_answers_each_request_and_they_take_turns() -> None:
    """Same place, same request; an error is a sample."""
    result, server = replayed([b"a", b"bad", b"slow"])
    assert [sample.request for sample in result.default] == ["r:0", "r:1", "r:2"]
    assert [sample.request for sample in result.candidate] == ["r:0", "r:1", "r:2"]
    assert [sample.status for sample in result.default] == [200, 400, 200]
    assert [sample.status for sample in result.candidate] == [200, 400, 0]
    assert (result.candidate[0].body, result.candidate[1].body) == (b"2.0 None", b"no")
    assert result.candidate[2].error == "silent"
    assert [version for version, _ in server.asked] == ["1.0", "2.0", "2.0", "1.0", "1.0", "2.0"]


def test_who_is_silent_once_is_not_waited_for_again() -> None:
    """Each time is as long as can be."""
    result, _ = replayed([b"a", b"slow", b"b"])
    assert [sample.status for sample in result.candidate] == [200, 0]
    assert len(result.default) == 2


def test_few_recordings_are_sent_again() -> None:
    """Until a tail can be judged by them; many are cut off at the limit, and none are none."""
    requests = [RecordedRequest(f"r:{n}", b"", "") for n in range(100)]
    sent = several(requests[:3], 200)
    assert [one.name for one in sent[:4]] == ["r:0", "r:1", "r:2", "r:0"]
    assert len(sent) == TAIL_SAMPLES
    assert several(requests, 80) == requests[:80]
    assert len(several(requests[:3], 7)) == 7
    assert several([], 200) == []
