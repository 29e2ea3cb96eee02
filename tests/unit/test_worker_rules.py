"""What TorchServe's Java refuses of an archive and of answers, held by the twin; live tests pin it."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from torchmar.errors import ArchiveError, WorkerLoadError
from torchmar.worker import MAX_RESPONSE_SIZE, Request, Response, Worker

from .strangers import DOES_AS_TOLD, FUNCTION, Folder, pack

# -- the archive --------------------------------------------------------------------------------


def with_manifest(folder: Path, content: str | bytes) -> Path:
    """Another manifest than the one that is there."""
    raw = content if isinstance(content, bytes) else content.encode()
    (folder / "MAR-INF" / "MANIFEST.json").write_bytes(raw)
    return folder


def why_refused(path: Path) -> str:
    """The reason of an archive that must not load, after its name."""
    with pytest.raises(WorkerLoadError) as caught:
        Worker.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


MODEL = {"modelName": "m", "handler": "handler.py"}


@pytest.mark.parametrize(
    ("manifest", "why"),
    [
        ({"runtime": "LSP", "model": MODEL}, "set `runtime` to python in its MAR-INF/MANIFEST.json: LSP is"),
        ({"runtime": "python2", "model": MODEL}, "TorchServe does not register 'python2'"),
        ({"runtime": "Python", "model": MODEL}, "TorchServe does not register 'Python'"),
        ({"runtime": None, "model": MODEL}, "TorchServe does not register None"),
        ({"runtime": ["python"], "model": MODEL}, "TorchServe does not register ['python']"),
        ([], "holds no model"),
        ({"model": None}, "holds no model"),
        ({"model": "m"}, "holds no model"),
        ({"createdOn": {}, "model": MODEL}, "createdOn in its MAR-INF/MANIFEST.json must be a text"),
        ({"model": {**MODEL, "handler": ["handler.py"]}}, "model.handler in its"),
        ({"model": {**MODEL, "modelVersion": {"major": 1}}}, "model.modelVersion in its"),
        ({"model": {**MODEL, "configFile": None}}, "model.configFile in its"),
        ({"model": {**MODEL, "configFile": 5}}, "model.configFile in its"),
        ({"model": {**MODEL, "configFile": ""}}, "cannot be read"),
        ({"model": {**MODEL, "configFile": "nonesuch.yaml"}}, "its config nonesuch.yaml cannot be read"),
    ],
)
def test_a_manifest_that_the_server_or_its_worker_refuses(folder: Folder, manifest: Any, why: str) -> None:
    """Told before anything of the archive is run: the reason, with what to do."""
    assert why in why_refused(with_manifest(folder("1 / 0"), json.dumps(manifest)))


@pytest.mark.parametrize(
    "content",
    [b"\xef\xbb\xbf{}", "{}".encode("utf-16"), b'{"model": {"modelName": "\xff"}}', b"{", b"[" * 100_000],
)
def test_a_manifest_that_the_worker_cannot_read(folder: Folder, content: bytes) -> None:
    """Java reads some of these; the worker dies of all of them, of the byte order mark as well."""
    assert "is not JSON that its worker can read" in why_refused(with_manifest(folder(), content))


@pytest.mark.parametrize("runtime", ["python", "python3"])
def test_the_runtimes_that_are_served(folder: Folder, runtime: str) -> None:
    with Worker.load(with_manifest(folder(), json.dumps({"runtime": runtime, "model": MODEL}))) as worker:
        assert worker.predict([Request.body(b"x")])[0].body == b"function"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "write settings as `name: value` into its config c.yaml: it is empty, no mapping"),
        ("# nothing\n", "it is empty, no mapping"),
        ("- minWorkers: 1\n", "it is a list, no mapping"),
        ("minWorkers 1\n", "it is a str, no mapping"),
        ("3\n", "it is a int, no mapping"),
        ("minWorkers: 1\n5: x\n", "put quotes around 5 in its config c.yaml"),
        ("on: x\n", "put quotes around True in its config c.yaml"),
        ("null: x\n", "put quotes around None in its config c.yaml"),
        ("!!bool maybe\n", "its config c.yaml cannot be read"),
        ("a: !!python/object:os.path {}\n", "its config c.yaml cannot be read"),
        ("a: [1\n", "its config c.yaml cannot be read"),
        ("a: " + "[" * 5000, "its config c.yaml cannot be read"),
    ],
)
def test_a_config_that_is_no_mapping_of_names(folder: Folder, text: str, why: str) -> None:
    """YAML that Java does not register an archive with, or that the worker cannot read."""
    assert why in why_refused(folder("1 / 0", files={"c.yaml": text}, configFile="c.yaml"))


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("batchSize: 4", 4),
        ("batchSize: 0", 1),
        ("batchSize: -3", 1),
        ("batchSize: 'x'", 1),
        ("batchSize: true", 1),
        ("batchSize: 2.5", 1),
        (f"batchSize: {2**31}", 1),
        ("maxWorkers: 3", 1),
    ],
)
def test_the_size_of_a_batch_as_the_server_reads_it(folder: Folder, text: str, size: int) -> None:
    """Only an integer of 32 bits counts, and at least 1."""
    with Worker.load(folder(files={"c.yaml": text}, configFile="c.yaml")) as worker:
        assert worker.context is not None
        assert worker.context.system_properties["batch_size"] == size


@pytest.mark.parametrize("error", ["BaseException('x')", "__import__('asyncio').CancelledError()"])
def test_no_exception_leaves_a_load_unexplained(folder: Folder, error: str) -> None:
    """Of whatever class; the worker would die of it."""
    assert "its handler handler would not load: " in why_refused(folder(f"raise {error}\n"))


def test_an_exception_that_cannot_be_said(folder: Folder) -> None:
    """Its class is told, and that its own text raises."""
    code = "class Mute(Exception):\n    def __str__(self): raise KeyError\nraise Mute\n"
    assert "would not load: Mute: (its text raises KeyError)" in why_refused(folder(code))


# -- unpacking it -------------------------------------------------------------------------------


def test_an_archive_that_does_not_fit_says_where_and_how_much_is_free(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One ArchiveError with what to do, and nothing of it is left."""
    resource = pytest.importorskip("resource")
    path = pack(folder(files={"large.bin": "x" * 100_000}))
    temp = tmp_path / "temp"
    temp.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temp))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(ArchiveError, match=r"bytes free; set TMPDIR to a folder with room") as caught:
            Worker.load(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(caught.value).startswith(f"{path}: could not be unpacked into {temp}")
    assert list(temp.iterdir()) == []


def test_no_temporary_folder_at_all(folder: Folder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nonesuch"))
    path = pack(folder())
    with pytest.raises(ArchiveError, match=r"cannot be unpacked: .* set TMPDIR to a folder with room"):
        Worker.load(path)


def test_a_folder_in_which_nobody_may_look(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Path.is_dir raises there before Python 3.14; it is one ArchiveError."""

    def forbidden(*_: Any, **__: Any) -> os.stat_result:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", forbidden)
    monkeypatch.setattr(Path, "resolve", lambda self: self)
    with pytest.raises(ArchiveError, match="Permission denied"):
        Worker.load(tmp_path / "theirs.mar")


DIGS = """
import os
here = os.getcwd()
for _ in range(1500):
    os.mkdir("d")
    os.chdir("d")
os.chdir(here)
"""


def test_however_deep_the_folders_are_that_a_handler_makes(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They are removed with the archive: shutil.rmtree gives up at a thousand."""
    temp = tmp_path / "temp"
    temp.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temp))
    with Worker.load(pack(folder(DIGS + FUNCTION))):
        assert list(temp.iterdir())
    assert list(temp.iterdir()) == []


# -- its answers --------------------------------------------------------------------------------

DIED = (500, "Worker died.")


def batch(folder: Path, *orders: str, **options: Any) -> list[Response]:
    """The responses to a batch of requests that each say what becomes of them."""
    with Worker.load(folder, **options) as worker:
        return worker.predict([Request.body(order.encode()) for order in orders])


def told(response: Response) -> tuple[int, Any]:
    """Status, and the frontend's own error, or the body."""
    is_error = response.content_type == "application/json"
    return response.status, response.json()["message"] if is_error else response.body


def test_an_answer_above_max_response_size_takes_its_batch_along(folder: Folder) -> None:
    """One byte more than TorchServe's default; each is measured alone, so together they may be larger."""
    path = folder(DOES_AS_TOLD)
    largest, above = f"answer = b'x' * {MAX_RESPONSE_SIZE}", f"answer = b'x' * {MAX_RESPONSE_SIZE + 1}"
    assert [response.status for response in batch(path, largest, largest)] == [200, 200]
    assert [told(response) for response in batch(path, "answer = b'y'", above)] == [DIED, DIED]


@pytest.mark.parametrize(
    "order",
    [
        "answer = 'é' * 51",
        "answer = {'text': 'x' * 100}",
        "context.set_response_status(400, 'x' * 101, index)",
        "context.set_response_content_type(index, 'x' * 101)",
    ],
)
def test_the_limit_is_a_setting_and_holds_for_each_part(folder: Folder, order: str) -> None:
    """Bytes, not characters, of the body, the content type and the phrase."""
    path = folder(DOES_AS_TOLD)
    assert [told(response) for response in batch(path, order, "", max_response_size=100)] == [DIED, DIED]
    assert DIED not in [told(response) for response in batch(path, order, "", max_response_size=200)]


def test_a_refusal_above_the_limit(folder: Folder) -> None:
    """The message of a PredictionException is read with the same limit."""
    order = "from ts.utils.util import PredictionException\nraise PredictionException('x' * 101, 500)"
    assert told(batch(folder(DOES_AS_TOLD), order, max_response_size=100)[0]) == DIED
    assert told(batch(folder(DOES_AS_TOLD), order, max_response_size=101)[0]) == (500, "x" * 101)


@pytest.mark.parametrize(
    "order",
    [
        "context.set_response_header(index, 'X A', 'b')",
        "context.set_response_header(index, 'X=A', 'b')",
        "context.set_response_header(index, '', 'b')",
        "context.set_response_header(index, 'X-é', 'b')",
        "context.set_response_header(index, 'X', 'b\\r\\nSet-Cookie: c')",
        "context.set_response_header(index, 'X', 'b\\n')",
        "context.set_response_header(index, 'X', 'b\\0')",
        "context.set_response_content_type(index, 'a\\nb')",
        "context.set_response_status(400, 'a\\nb', index)",
        "context.set_response_status(-1, '', index)",
    ],
)
def test_what_is_no_http_ends_the_worker(folder: Folder, order: str) -> None:
    """What stands before it in the batch has been sent already; nothing after it is."""
    responses = batch(folder(DOES_AS_TOLD), "answer = 'first'", order, "answer = 'third'")
    assert [told(response) for response in responses] == [(200, b"first"), DIED, DIED]


@pytest.mark.parametrize(
    "order",
    [
        "context.set_response_status(400, 'é', index)",
        "context.set_response_content_type(index, 'text/é')",
        "context.set_response_header(index, 'X', 'b' * 6_500_001)",
    ],
)
def test_what_the_frontend_cannot_read_ends_the_whole_batch(folder: Folder, order: str) -> None:
    """The stock service counts characters for these two, and the frontend reads as many bytes."""
    responses = batch(folder(DOES_AS_TOLD), "answer = 'first'", order)
    assert [told(response) for response in responses] == [DIED, DIED]


@pytest.mark.parametrize(
    ("name", "value"), [("X-Any(thing)", "é \x7f"), ("X", ""), ("X", "folded\r\n line"), ("X", "a\n\tb")]
)
def test_headers_that_netty_takes(folder: Folder, name: str, value: str) -> None:
    order = f"context.set_response_header(index, {name!r}, {value!r})"
    [response] = batch(folder(DOES_AS_TOLD), order)
    assert (response.status, response.headers) == (200, {name: value})


@pytest.mark.parametrize("status", [204, 304])
def test_statuses_that_have_no_body(folder: Folder, status: int) -> None:
    order = f"context.set_response_status({status}, 'x', index)"
    assert (batch(folder(DOES_AS_TOLD), order)[0].status, batch(folder(DOES_AS_TOLD), order)[0].body) == (
        status,
        b"",
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("'m', 200", (200, b"error")),
        ("'m', -5", DIED),
        ("'m', '500'", DIED),
        ("'m', 500.0", DIED),
        ("5, 500", DIED),
        ("'é', 409", (409, "é")),
    ],
)
def test_refusals_that_the_stock_service_cannot_send(
    folder: Folder, arguments: str, expected: tuple[int, Any]
) -> None:
    """A PredictionException with a status or a message that is none; 200 is taken for a success."""
    order = f"from ts.utils.util import PredictionException\nraise PredictionException({arguments})"
    assert told(batch(folder(DOES_AS_TOLD), order)[0]) == expected


def test_the_frontends_own_headers_cannot_be_said_by_a_client(folder: Folder) -> None:
    """`describe` can: a handler that obeys it tells what it was asked for; explain and url_path cannot."""
    code = "def handle(data, context):\n    return data and [context.get_all_request_header(0)]\n"
    headers = {"explain": "True", "url_path": "/x", "describe": "True"}
    with Worker.load(folder(code)) as worker:
        [response] = worker.predict([Request.body(b"x", headers=headers)])
    assert response.json() == {
        "body": {"content-type": ""},
        "explain": "False",
        "url_path": "",
        "describe": "True",
    }
