"""Archives that exist: digests and golden answers are added, and all else stays as it is."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import pytest

from tests.live.servers import STAND_IN
from torchmar import mar
from torchmar.adopt import Adopted, with_golden
from torchmar.compare import Comparator
from torchmar.errors import ArchiveError, ArchiveExists, TorchmarError, WorkerLoadError
from torchmar.lineage import Lineage
from torchmar.worker import check_archive

from .strangers import DOES_AS_TOLD, ECHO, Folder, golden, pack
from .test_cli import torchmar

COUNTS = """
import os, random
import numpy
def handle(data, context):
    return None if data is None else [{"n": random.random()} for _ in data]
"""


def adopted(path: Path, target: Path, **requests: str) -> Adopted:
    bodies = {name: body.encode() for name, body in requests.items()}
    return with_golden(mar.verify(path), target, bodies)


def files(path: Path) -> dict[str, str]:
    return {file.name: file.sha256 for file in mar.read(path).files}


@pytest.mark.parametrize("form", ["store.mar", "folder"])
@pytest.mark.parametrize("packed", [True, False])
def test_an_archive_in_normal_form(folder: Folder, tmp_path: Path, form: str, *, packed: bool) -> None:
    """Every file is as it was, deflated or not, in either form; with digests, and its answers expected."""
    light = {name: content.decode() for name, content in STAND_IN.items()}
    path = folder(ECHO, files={"data/weights.bin": "x" * 2_000_000, **light}, createdOn="now")
    if packed:
        path = deflated(path)
    before = files(path)
    found = adopted(path, tmp_path / "new" / form, one="1", two="2")
    after = files(found.archive.path)
    added = {mar.DIGESTS, mar.COMPARE, mar.GOLDEN_ANSWERS, f"{mar.GOLDEN}/one", f"{mar.GOLDEN}/two"}
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == added
    assert files(path) == before, "the stranger's archive is as it was"
    assert [one.expected for one in found.golden] == [
        {"answer": [{"index": number, "label": "x"}]} for number in (1, 2)
    ]
    verified = mar.verify(found.archive.path)
    assert (verified.digests is not None, found.recorded) == (True, ("one", "two"))
    assert len(check_archive(verified.path).golden) == 2


def deflated(path: Path) -> Path:
    """As torch-model-archiver makes a .mar."""
    target = path.with_suffix(".mar")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(path.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(path))
    return target


def test_the_same_archive_gives_the_same_bytes(folder: Folder, tmp_path: Path) -> None:
    """Adopted twice."""
    path = pack(folder(ECHO))
    one, two = (adopted(path, tmp_path / name, one="1").archive for name in ("a.mar", "b.mar"))
    assert one.sha256 == two.sha256 == hashlib.sha256(two.path.read_bytes()).hexdigest()


def test_a_name_that_is_taken(folder: Folder, tmp_path: Path) -> None:
    """The archive there is not touched, and nothing of the new one is run; --replace replaces it."""
    path = pack(folder("1 / 0"))
    target = tmp_path / "there.mar"
    target.write_text("precious")
    with pytest.raises(ArchiveExists, match="--output"):
        adopted(path, target)
    assert target.read_text() == "precious"
    good = pack(folder(ECHO))
    with_golden(mar.verify(good), target, {"one": b"1"}, force=True)
    assert mar.verify(target).digests is not None
    with_golden(mar.verify(target), target, {"two": b"2"}, force=True)
    assert [one.name for one in mar.golden_requests(mar.verify(target))] == ["one", "two"]


@pytest.mark.parametrize(
    ("code", "requests", "said"),
    [
        (ECHO, {"a": "teapot"}, "golden request a: .*418"),
        (COUNTS, {"a": "1"}, "--compare KIND"),
        ("1 / 0", {"a": "1"}, "ZeroDivisionError"),
        (ECHO, {"answers.json": "1"}, "rename the file"),
    ],
)
def test_what_is_not_adopted(
    folder: Folder, tmp_path: Path, code: str, requests: dict[str, str], said: str
) -> None:
    """No answer, another one each time, no handler, a name that is needed: nothing is left behind."""
    path = pack(folder(code))
    with pytest.raises(TorchmarError, match=said):
        adopted(path, tmp_path / "new" / "x.mar", **requests)
    assert not (tmp_path / "new").exists()


def test_recorded_requests_that_are_refused_are_left_out(folder: Folder, tmp_path: Path) -> None:
    """Real requests may be bad ones; where all are, there is nothing to expect."""
    archive = mar.verify(pack(folder(ECHO)))
    found = with_golden(archive, tmp_path / "a.mar", {"a": b"teapot", "b": b"2"}, leave_out=["a"])
    assert [one.name for one in found.golden] == ["b"]
    assert list(found.left_out) == ["a"]
    assert f"{mar.GOLDEN}/a" not in files(found.archive.path)
    with pytest.raises(WorkerLoadError, match="418"):
        with_golden(archive, tmp_path / "b.mar", {"a": b"teapot"}, leave_out=["a"])
    with pytest.raises(WorkerLoadError, match="418"):
        with_golden(archive, tmp_path / "b.mar", {"a": b"teapot", "b": b"2"}, leave_out=["b"])


def test_answers_are_kept_or_recorded_anew(folder: Folder, tmp_path: Path) -> None:
    """What is expected already stays unless told; an answer that no longer holds is told."""
    path = pack(folder(ECHO, files=golden({"one": {"index": 1}}, one="1")))
    kept = adopted(path, tmp_path / "a.mar", two="2")
    assert {one.name: one.expected for one in kept.golden}["one"] == {"index": 1}
    assert kept.recorded == ("two",)
    anew = with_golden(mar.verify(path), tmp_path / "b.mar", {}, again=True)
    assert anew.golden[0].expected == {"answer": [{"index": 1, "label": "x"}]}
    wrong = pack(folder(ECHO, files=golden({"one": {"index": 7}}, one="1")))
    with pytest.raises(ArchiveError, match=r"found {.index.: 1}"):
        adopted(wrong, tmp_path / "c.mar", two="2")
    with pytest.raises(ArchiveError, match="a request with that name"):
        adopted(path, tmp_path / "c.mar", one="2")


def test_what_an_archive_of_ours_was_measured_by_stays(tiny_onnx: Path, tmp_path: Path) -> None:
    """Other golden answers are no other model: its parity goes along, and the answers still hold."""
    archive = mar.verify(tiny_onnx)
    found = with_golden(archive, tmp_path / "a.mar", {}, again=True)
    changed = {mar.DIGESTS, mar.BUILD, mar.GOLDEN_ANSWERS}
    before, after = files(tiny_onnx), files(found.archive.path)
    assert {name for name in after if before.get(name) != after[name]} <= changed
    assert found.archive.parity == archive.parity
    assert mar.verify(found.archive.path).build != archive.build


def test_golden_requests_of_which_nothing_is_expected(folder: Folder, tmp_path: Path) -> None:
    """`verify` asks them all the same, and they must be answered."""
    path = pack(folder(ECHO, files={f"{mar.GOLDEN}/{name}": name for name in ("1", "2")}))
    check = check_archive(path)
    assert [(one.name, one.status) for one in check.requests] == [("1", 200), ("2", 200)]
    bad = check_archive(pack(folder(ECHO, files=golden({"1": {"index": 1}}, **{"1": "1", "bad": "teapot"}))))
    assert (bad.ok, len(bad.golden), "bad: answered with 418" in bad.reason) == (False, 1, True)
    anew = with_golden(mar.verify(path), tmp_path / "a.mar", {}, again=True)
    assert anew.recorded == ("1", "2")


def test_what_a_worker_here_cannot_tell_is_not_recorded(folder: Folder, tmp_path: Path) -> None:
    """Batches that go on: no wrong answer is written down, and `verify` does not call it ok."""
    act = "context.stopping_criteria = {0: lambda _: True}"
    path = pack(folder(DOES_AS_TOLD, files=golden({"a": {"answer": "x"}}, a=act)))
    with pytest.raises(ArchiveError, match=r"cannot be recorded: .*ask a server"):
        with_golden(mar.verify(path), tmp_path / "a.mar", {}, again=True)
    done = torchmar("verify", path)
    assert (done.returncode, done.stdout.split()[0]) == (3, "unasked")


def test_how_answers_are_compared(folder: Folder, tmp_path: Path) -> None:
    """It travels in the archive; one that could compare none of the answers is refused."""
    archive = mar.verify(pack(folder(ECHO)))
    first = Comparator.of({"kind": "first", "by": "index"})
    found = with_golden(archive, tmp_path / "a.mar", {"a": b"1"}, comparator=first)
    assert mar.verify(found.archive.path).comparator == first
    with pytest.raises(ArchiveError, match="another --compare than cosine"):
        with_golden(archive, tmp_path / "b.mar", {"a": b"1"}, comparator=Comparator("cosine"))


def test_another_version(folder: Folder, tmp_path: Path) -> None:
    """Its own is served already: all but the manifest stays as it was, and the old one is its parent."""
    archive = mar.verify(pack(folder(ECHO)))
    made = with_golden(archive, tmp_path / "a.mar", {"a": b"1"}, version="1.1").archive
    assert (made.version, mar.verify(made.path).version) == ("1.1", "1.1")
    assert made.lineage == Lineage(parent=archive.as_parent())
    before, after = files(archive.path), files(made.path)
    assert {name for name in before if before[name] != after[name]} == {mar.MANIFEST}
    done = torchmar("adopt", archive.path, "--version", "a/b")
    assert (done.returncode, "--version a/b: " in done.stderr) == (1, True)


def test_golden_requests_that_a_folder_links_to_are_not_written_through(
    folder: Folder, tmp_path: Path
) -> None:
    """A folder is unpacked as links to it: recording anew writes none of its files."""
    path = folder(ECHO, files=golden({"one": {"index": 1}}, one="1"))
    before = files(path)
    with_golden(mar.verify(path), tmp_path / "a.mar", {}, again=True)
    assert files(path) == before


def test_what_is_said_of_an_adopted_archive(folder: Folder, tmp_path: Path) -> None:
    """What it did, what the handler needs, what is not known."""
    files = {"requirements.txt": "numpy\n", "helper.py": "import PIL.Image\ndef f():\n    from . import x\n"}
    code = f"import numpy, helper\n{ECHO}"
    path = pack(folder(code, files=files, requirementsFile="requirements.txt", modelVersion="3.0"))
    requests = tmp_path / "requests"
    requests.mkdir()
    (requests / "one.txt").write_text("5")
    done = torchmar("adopt", path, "--golden", requests, "--store", tmp_path / "store")
    assert done.returncode == 1, "text arrives as a str, which this handler does not take"
    (requests / "one.txt").rename(requests / "one.bin")
    done = torchmar("adopt", path, "--golden", requests, "--store", tmp_path / "store")
    assert (done.returncode, done.stderr) == (0, "")
    target = tmp_path / "store" / "m-3.0.mar"
    assert done.stdout.startswith(f"{target}  ")
    for said in (
        "to the byte",
        'golden   one.bin → [{"index": 5, "label": "x"}]',
        "the imports of its code: PIL, numpy",
        "requirements.txt: TorchServe installs it only where install_py_dep_per_model=true",
        "unasked  whether the answers are right",
    ):
        assert said in done.stdout
    assert torchmar("verify", target).returncode == 0
    assert "or give --replace" in torchmar("adopt", path, "--store", target.parent).stderr


def test_without_requests_it_says_that_nothing_was_asked(folder: Folder, tmp_path: Path) -> None:
    path = pack(folder(ECHO))
    done = torchmar("adopt", path, "--output", tmp_path / "a.mar")
    assert done.returncode == 0
    assert "nothing was asked of it" in done.stdout
    assert "torchmar golden" in done.stdout
    told = json.loads(torchmar("adopt", path, "--output", tmp_path / "b.mar", "--json").stdout)
    assert (told["golden"], len(told["not_asked"])) == ([], 1)


def test_requests_that_were_recorded(folder: Folder, tmp_path: Path) -> None:
    """The first ones of the model that differ and are answered; forms are counted."""
    path = pack(folder(ECHO))
    lines = [("m", "5"), ("other", "6"), ("m", "5"), ("m", "teapot"), ("m", "7"), ("m", "8")]
    har = [
        {"request": {"url": f"http://h/predictions/{model}", "postData": {"mimeType": kind, "text": text}}}
        for kind, (model, text) in zip(
            ("a/b", "a/b", "a/b", "a/b", "multipart/form-data", "a/b"), lines, strict=True
        )
    ]
    recorded = tmp_path / "requests.har"
    recorded.write_text(json.dumps({"log": {"entries": har}}))
    target = tmp_path / "a.mar"
    done = torchmar("adopt", path, "--record", "3", "--from", recorded, "--output", target)
    assert (done.returncode, done.stderr) == (0, "")
    assert "left out recorded-002.bin: answered with 418" in done.stdout
    assert "left out 1 recorded request with a form" in done.stdout
    requests = {one.name: one.body for one in mar.golden_requests(mar.verify(target))}
    assert requests == {"recorded-001.bin": b"5", "recorded-003.bin": b"8"}
    assert "give --record N and --from FILE together" in torchmar("adopt", path, "--record", "3").stderr


def test_golden_requests_are_shown_added_and_recorded(folder: Folder, tmp_path: Path) -> None:
    """In an archive beside, under the same version; in place only with --replace."""
    path = pack(folder(ECHO, files=golden({"one": {"index": 1}}, one="1"), modelVersion="2.5"))
    shown = torchmar("golden", path).stdout
    assert '{"index": 1}' in shown
    before = path.read_bytes()
    request = tmp_path / "two"
    request.write_text("2")
    done = torchmar("golden", path, "--add", request)
    beside = path.with_name(f"{path.stem}-golden.mar")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{beside}  1 recorded, 0 changed" in done.stdout
    assert (path.read_bytes(), mar.verify(beside).version) == (before, "2.5")
    told = json.loads(torchmar("golden", beside, "--record", "--replace", "--json").stdout)
    assert (told["path"], told["recorded"], told["changed"]) == (str(beside), ["one", "two"], ["one"])
    assert json.loads(torchmar("golden", beside, "--json").stdout)["golden"] == told["golden"]
    assert "--compare nonsense: found" in torchmar("golden", path, "--compare", "nonsense").stderr
    assert "nothing was asked" in torchmar("golden", pack(folder(ECHO))).stdout
