"""Packing: each byte once and as it was, the same files give the same bytes, nothing half-done is left."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchmar import mar, pack, unpack
from torchmar.errors import ArchiveCorrupt, ArchiveError, ArchiveExists
from torchmar.pack import Source
from torchmar.pack import _source as source_module
from torchmar.pack import _zip as zip_module
from torchmar.unpack import _names

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = json.dumps(
    {"model": {"modelName": "m", "handler": "image_classifier", "configFile": "c.yaml"}}
).encode()
SMALL: dict[str, bytes | Source] = {
    mar.MANIFEST: MANIFEST,
    "c.yaml": b"minWorkers: 1\n",
    "handlers/base.py": b"VALUE = 1\n",
    "handlers/__init__.py": b"",
    "z/ü/ß.txt": "grüß".encode(),
}
FORMS = ["a.mar", "a"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """9 MB, of which no part is like another."""
    path = tmp_path_factory.mktemp("weights") / "weights.bin"
    path.write_bytes(b"".join(hashlib.sha256(bytes([n % 256, n >> 8])).digest() * 900 for n in range(320)))
    return path


@pytest.fixture(params=FORMS)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where each form of an archive goes: an empty store."""
    (tmp_path / "store").mkdir()
    return tmp_path / "store" / str(request.param)


def put(contents: pack.Contents, target: Path, *, force: bool = False) -> mar.Archive:
    """All steps of packing."""
    with pack.beside(target) as temporary:
        files = pack.write(contents, temporary, target=target)
        archive = pack.verify_written(temporary, files, contents)
        pack.publish(temporary, target, force=force)
    return replace(archive, path=target)


def files_in(path: Path) -> dict[str, bytes]:
    """Every file of an archive of either form, read by others than its writer."""
    if path.is_dir():
        found = {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}
        return {name: content for name, content in found.items() if not name.endswith(unpack.PYCACHE)}
    with zipfile.ZipFile(path) as opened:
        assert opened.testzip() is None
        return {name: opened.read(name) for name in opened.namelist()}


def left_in(store: Path) -> list[str]:
    return sorted(path.name for path in store.iterdir())


# -- what comes out is what went in --------------------------------------------------------------

# Names that a filesystem takes side by side: none is the folder of another.
NAMES = st.lists(st.text("abü 0._-", min_size=1, max_size=5), min_size=1, max_size=3).map(
    lambda parts: "/".join(f"x{part}" for part in parts) + ".bin"
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.dictionaries(NAMES, st.binary(max_size=3000), max_size=6), data=st.data())
def test_any_files_come_back_from_both_forms(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], data: st.DataObject
) -> None:
    """As bytes or as sources, digests known or not; both forms have the same contents, for mar.py, too."""
    folder = tmp_path_factory.mktemp("any")
    contents: dict[str, bytes | Source] = {mar.MANIFEST: MANIFEST, "c.yaml": b"a: 1\n"}
    for number, (name, content) in enumerate(files.items()):
        how = data.draw(st.sampled_from(["bytes", "file", "known", "linkable", "inside"]))
        path = folder / f"{number}.bin"
        path.write_bytes(b"before" + content + b"after" if how == "inside" else content)
        whole = Source.of(path, linkable=how == "linkable")
        forms: dict[str, bytes | Source] = {
            "bytes": content,
            "file": whole,
            "known": whole.digested(),
            "linkable": whole,
            "inside": replace(whole, offset=6, size=len(content)),
        }
        contents[name] = forms[how]
    archives = [put(contents, folder / name) for name in FORMS]
    expected = {**files, mar.MANIFEST: MANIFEST, "c.yaml": b"a: 1\n"}
    for archive in archives:
        found = files_in(archive.path)
        assert json.loads(found.pop(mar.DIGESTS)) == archive.digests
        assert found == expected
        assert mar.verify(archive.path) == archive
    assert archives[0].contents_sha256 == archives[1].contents_sha256 == archives[1].sha256


def test_the_digests_are_those_that_other_programs_compute(target: Path, weights: Path) -> None:
    """Computed on the way, or before; `sha256sum` of a .mar, and of digests.json, says the same."""
    known, unknown = Source.of(weights).digested(), Source.of(weights)
    for contents in ({**SMALL, "w": unknown}, {**SMALL, "w": known}):
        archive = put(contents, target, force=True)
        [entry] = [file for file in archive.files if file.name == "w"]
        expected = hashlib.sha256(weights.read_bytes()).hexdigest()
        assert (entry.sha256, entry.size) == (expected, weights.stat().st_size)
        whole = target if target.is_file() else target / mar.DIGESTS
        assert archive.sha256 == hashlib.sha256(whole.read_bytes()).hexdigest()
        assert archive.contents_sha256 == hashlib.sha256(files_in(target)[mar.DIGESTS]).hexdigest()


def no_copy_file_range(patch: pytest.MonkeyPatch) -> None:
    patch.delattr(os, "copy_file_range")


def refused(patch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    patch.setattr(os, "copy_file_range", refuse)


def says_zero(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(os, "copy_file_range", lambda *_: 0)


def in_crumbs(patch: pytest.MonkeyPatch) -> None:
    copy = os.copy_file_range
    patch.setattr(os, "copy_file_range", lambda a, b, count, x, y: copy(a, b, min(count, 99_999), x, y))


def no_fadvise(patch: pytest.MonkeyPatch) -> None:
    patch.delattr(os, "posix_fadvise")


@pytest.mark.skipif(not hasattr(os, "copy_file_range"), reason="this system has only the plain way")
@pytest.mark.parametrize("how", [no_copy_file_range, refused, says_zero, in_crumbs, no_fadvise])
def test_where_the_kernel_cannot_copy_the_bytes_are_the_same(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, how: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """macOS, two filesystems, filesystems that only claim to."""
    contents = {**SMALL, "w": Source.of(weights)}
    expected = put(contents, tmp_path / "here.mar")
    how(monkeypatch)
    assert put(contents, tmp_path / "there.mar").sha256 == expected.sha256


def test_large_data_begins_on_a_page(tmp_path: Path, weights: Path) -> None:
    """For every length of the names before it: filesystems share blocks only where they are aligned alike."""
    for length in range(1, 12):
        contents = {mar.MANIFEST: MANIFEST, "c.yaml": b"a: 1\n", "k" * length: b"x" * 400 * length}
        put({**contents, "w": Source.of(weights)}, tmp_path / "a.mar", force=True)
        raw = (tmp_path / "a.mar").read_bytes()
        assert raw.index(weights.read_bytes()) % 4096 == 0
        assert mar.verify(tmp_path / "a.mar").problems() == []


def test_what_does_not_fit_into_32_bits_is_in_zip64(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the limit at a kilobyte instead of 4 GiB: sizes, offsets and the end of the directory."""
    monkeypatch.setattr(zip_module, "_LIMIT", 1000)
    contents = {**SMALL, "w": Source.of(weights), "w2": weights.read_bytes()[:5000], "zz": b"end"}
    archive = put(contents, tmp_path / "a.mar")
    assert files_in(tmp_path / "a.mar")["w"] == weights.read_bytes()
    assert mar.verify(tmp_path / "a.mar") == archive
    assert b"PK\6\6" in (tmp_path / "a.mar").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.mar") as opened:
        assert {info.filename for info in opened.infolist() if info.extract_version == 45} >= {
            "w",
            "w2",
            "zz",
        }


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a\\x"])
def test_a_name_that_leads_out_is_not_packed(target: Path, name: str) -> None:
    """Neither into a zip nor into a folder."""
    with pytest.raises(ArchiveCorrupt, match="leads out of the archive"):
        put({**SMALL, name: b""}, target)
    assert left_in(target.parent) == []


# -- what changes meanwhile ----------------------------------------------------------------------


def test_a_file_that_changed_since_it_was_looked_at_is_refused(target: Path, tmp_path: Path) -> None:
    """Written to, cut short, or another one of that name."""

    def append(path: Path) -> None:
        with path.open("ab") as file:
            file.write(b"more")

    def another(path: Path) -> None:
        path.with_suffix(".new").write_bytes(b"x" * 5000)
        path.with_suffix(".new").replace(path)

    for change in (append, another, lambda path: os.truncate(path, 10)):
        path = tmp_path / "w.bin"
        path.write_bytes(b"x" * 5000)
        os.utime(path, (1, 1))
        contents = {**SMALL, "w": Source.of(path).digested()}
        change(path)
        with pytest.raises(ArchiveError, match=r"w\.bin: it was changed while it was packed"):
            put(contents, target)
        assert left_in(target.parent) == []


def test_a_pipe_that_took_its_place_is_not_waited_for(tmp_path: Path) -> None:
    """It would hold a release, and its journal, until somebody writes to it."""
    path = tmp_path / "weights"
    path.write_bytes(b"x")
    source = pack.Source.of(path)
    path.unlink()
    os.mkfifo(path)
    told: list[Exception] = []

    def read() -> None:
        try:
            source.read()
        except Exception as error:
            told.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(5)
    for opened in () if told else (os.open(path, os.O_RDWR),):  # it waits no longer, and the test fails
        os.close(opened)
    assert [type(error) for error in told] == [ArchiveError]


def test_other_bytes_than_were_digested_are_found_when_read_back(target: Path, tmp_path: Path) -> None:
    """Changed without a trace: size and time are as before. What was packed is not what was digested."""
    path = tmp_path / "w.bin"
    path.write_bytes(b"x" * 5000)
    os.utime(path, (1, 1))
    contents = {**SMALL, "w": Source.of(path).digested()}
    path.write_bytes(b"y" * 5000)
    os.utime(path, (1, 1))
    with pytest.raises(ArchiveError, match="was changed while it was packed"):
        put(contents, target)
    assert left_in(target.parent) == []


# -- half-done -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("calls", [0, 2, 4])
def test_a_full_disk_is_told_with_what_is_needed(
    target: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, number: int, calls: int
) -> None:
    """After any number of writes: one sentence, and nothing of it stays."""
    real, done = os.pwrite, []

    def full(*arguments: Any) -> int:
        done.append(1)
        if len(done) > calls:
            raise OSError(number, os.strerror(number))
        return real(*arguments)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(ArchiveError) as caught:
        put({**SMALL, "w": Source.of(weights)}, target)
    needed = sum(len(content) for content in SMALL.values() if isinstance(content, bytes))
    assert str(caught.value).startswith(f"{target}: could not be written: {os.strerror(number)}")
    assert f"({needed + weights.stat().st_size:,} bytes are needed, " in str(caught.value)
    assert left_in(target.parent) == []


def test_the_kernels_own_refusal_in_the_middle_of_the_weights(target: Path, weights: Path) -> None:
    """A limit on the size of files, which the kernel enforces: 4 MB of 9."""
    code = f"""
import resource, sys
sys.path.insert(0, {str(ROOT)!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, 4_000_000))
from pathlib import Path
from torchmar import pack
from torchmar.errors import ArchiveError
target = Path({str(target)!r})
try:
    with pack.beside(target) as temporary:
        pack.write({{"w": pack.Source.of(Path({str(weights)!r}))}}, temporary, target=target)
except ArchiveError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == f"{target}: could not be written: {os.strerror(errno.EFBIG)}"
    assert left_in(target.parent) == []


def test_a_kill_leaves_nothing_that_is_taken_for_an_archive(target: Path, weights: Path) -> None:
    """kill -9 between writing and naming: a hidden file, which neither TorchServe nor torchmar reads."""
    code = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from torchmar import pack
target = Path({str(target)!r})
with pack.beside(target) as temporary:
    pack.write({{"w": pack.Source.of(Path({str(weights)!r}))}}, temporary, target=target)
    print("written", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    [left] = left_in(target.parent)
    assert left.startswith(f".{target.name}.{process.pid}-")
    assert left.endswith(".tmp")
    assert mar.find_archives(target.parent) == []
    put(SMALL, target)
    assert mar.find_archives(target.parent) == [target]


# -- under its name ------------------------------------------------------------------------------


def file(path: Path) -> None:
    path.write_text("another")


def folder(path: Path) -> None:
    path.mkdir()
    (path / "precious").write_text("another")


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("there", [file, folder, dangling])
def test_what_is_there_already_stays(target: Path, there: Callable[[Path], None]) -> None:
    """Whatever has that name."""
    there(target)
    before = [(path.name, path.is_file() and path.read_bytes()) for path in target.parent.rglob("*")]
    with pytest.raises((ArchiveExists, ArchiveError), match=r"is there already|could not be written"):
        put(SMALL, target)
    assert [(p.name, p.is_file() and p.read_bytes()) for p in target.parent.rglob("*")] == before


def test_force_replaces_an_archive_of_the_same_form(target: Path) -> None:
    """All of it: no file of the old one shines through."""
    put({**SMALL, "old": b"old"}, target)
    archive = put(SMALL, target, force=True)
    assert mar.verify(target) == archive
    assert left_in(target.parent) == [target.name]


def test_force_replaces_a_file_by_a_folder(tmp_path: Path) -> None:
    """Even what is no archive."""
    file(tmp_path / "a")
    put(SMALL, tmp_path / "a", force=True)
    assert left_in(tmp_path) == ["a"]
    assert mar.verify(tmp_path / "a").name == "m"


def test_where_there_are_no_hard_links_it_is_renamed(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a folder gets a copy of what it would share."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    contents = {**SMALL, "w": Source.of(weights, linkable=True)}
    for name in FORMS:
        put(contents, tmp_path / name)
        with pytest.raises(ArchiveExists):
            put(contents, tmp_path / name)
    assert left_in(tmp_path) == sorted(FORMS)
    assert not (tmp_path / "a" / "w").samefile(weights)
    assert files_in(tmp_path / "a") == files_in(tmp_path / "a.mar")


# -- the folder form -----------------------------------------------------------------------------


def test_only_what_nobody_writes_to_is_linked(tmp_path: Path, weights: Path) -> None:
    """A user may change a file of his in place: the archive must not change with it."""
    put({**SMALL, "w": Source.of(weights, linkable=True), "u": Source.of(weights)}, tmp_path / "a")
    assert (tmp_path / "a" / "w").samefile(weights)
    assert not (tmp_path / "a" / "u").samefile(weights)
    assert (tmp_path / "a" / "u").stat().st_nlink == 1


def test_python_caches_nothing_in_it(tmp_path: Path) -> None:
    """A worker's imports leave the store as it was built; it has no file that a .mar would not have."""
    put(SMALL, tmp_path / "a")
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    keep = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    code = "from handlers.base import VALUE; print(VALUE)"
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            env={**keep, "PYTHONPATH": str(tmp_path / "a")},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.stdout, done.stderr) == ("1\n", "")
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
    assert {file.name for file in mar.verify(tmp_path / "a").files} == {*SMALL, mar.DIGESTS}


def add_file(path: Path) -> str:
    (path / "handlers" / "extra.py").write_text("")
    return "handlers/extra.py: added after the build"


def add_cache(path: Path) -> str:
    (path / "handlers" / unpack.PYCACHE).unlink()
    (path / "handlers" / unpack.PYCACHE).mkdir()
    (path / "handlers" / unpack.PYCACHE / "base.cpython-311.pyc").write_bytes(b"\0")
    return "Python would run 'handlers/__pycache__/base.cpython-311.pyc' instead of 'handlers/base.py'"


def fill_cache(path: Path) -> str:
    (path / "handlers" / unpack.PYCACHE).write_text("x")
    return "handlers/__pycache__: added after the build"


def change_file(path: Path) -> str:
    (path / "c.yaml").write_bytes(b"minWorkers: 2\n")
    return "c.yaml: changed after the build"


def remove_file(path: Path) -> str:
    (path / "z" / "ü" / "ß.txt").unlink()
    return "z/ü/ß.txt: missing"


def link_out(path: Path) -> str:
    (path / "etc").symlink_to("/etc")
    return "etc is a symbolic link and may lead out"


def link_inside(path: Path) -> str:
    (path / "c.yaml").rename(path / "d.yaml")
    (path / "c.yaml").symlink_to("d.yaml")
    return "c.yaml is a symbolic link and may lead out"


def fifo(path: Path) -> str:
    os.mkfifo(path / "pipe")
    return "pipe is neither a file nor a folder"


def hidden_fifo(path: Path) -> str:
    (path / "handlers" / unpack.PYCACHE).unlink()
    os.mkfifo(path / "handlers" / unpack.PYCACHE)
    return "handlers/__pycache__ is neither a file nor a folder"


@pytest.mark.parametrize(
    "tamper",
    [add_file, add_cache, fill_cache, change_file, remove_file, link_out, link_inside, fifo, hidden_fifo],
)
def test_what_became_of_a_folder_is_told(tmp_path: Path, tamper: Callable[[Path], str]) -> None:
    """Added, changed, removed, linked: verify names it; nothing is followed, no pipe is waited for."""
    put(SMALL, tmp_path / "a")
    expected = tamper(tmp_path / "a")
    with pytest.raises(ArchiveCorrupt) as caught:
        mar.verify(tmp_path / "a")
    assert expected in str(caught.value)


def test_a_folder_of_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a zip is."""
    put(SMALL, tmp_path / "a")
    monkeypatch.setattr(_names, "MAX_FILES", 3)
    with pytest.raises(ArchiveCorrupt, match=r"a: has more than 3 files: too much"):
        mar.read(tmp_path / "a")
    with pytest.raises(ArchiveCorrupt, match="too much"):
        put(SMALL, tmp_path / "b")


# -- variants ------------------------------------------------------------------------------------

BUILT = {**SMALL, mar.BUILD: b'{"inputs_sha256": "x", "torchmar": "0"}', mar.PARITY: b'{"inputs": 6}'}


@pytest.fixture(params=FORMS)
def original(request: pytest.FixtureRequest, tmp_path: Path, weights: Path) -> mar.Archive:
    """An archive of either form with large weights."""
    put({**BUILT, "w": Source.of(weights)}, tmp_path / f"original-{request.param}")
    return mar.verify(tmp_path / f"original-{request.param}")


def test_a_variant_has_what_is_changed_and_the_rest(
    original: mar.Archive, target: Path, weights: Path
) -> None:
    """Another configuration, of which the measured parity still holds; it says what it was made of."""
    made = pack.variant(original, target, {"c.yaml": b"minWorkers: 2\n", "handlers/base.py": None})
    assert mar.verify(target) == made
    assert made.config == {"minWorkers": 2}
    assert made.build == {"torchmar": "0", "variant_of": original.contents_sha256}
    assert made.parity is None
    found = files_in(target)
    assert found["w"] == weights.read_bytes()
    assert found.keys() == {*BUILT, "w", mar.DIGESTS} - {"handlers/base.py", mar.PARITY}
    assert pack.variant(original, target.with_name("c"), {"c.yaml": b"a: 1"}).parity == {"inputs": 6}
    with pytest.raises(ArchiveExists):
        pack.variant(original, target, {})


def test_a_variant_with_another_artifact(original: mar.Archive, target: Path, tmp_path: Path) -> None:
    """From a file; what is told of its parity is the caller's."""
    (tmp_path / "int8").write_bytes(b"8" * 2_000_000)
    made = pack.variant(original, target, {"w": tmp_path / "int8", mar.PARITY: b'{"inputs": 7}'})
    assert files_in(target)["w"] == b"8" * 2_000_000
    assert made.parity == {"inputs": 7}
    assert not target.is_dir() or not (target / "w").samefile(tmp_path / "int8")


def test_folders_share_the_weights_of_their_variants(tmp_path: Path, weights: Path) -> None:
    """Where that is asked for: no second copy on disk, and none in memory; small files are their own."""
    put({**BUILT, "w": Source.of(weights)}, tmp_path / "a")
    pack.variant(mar.verify(tmp_path / "a"), tmp_path / "b", {"c.yaml": b"a: 1\n"}, link=True)
    assert (tmp_path / "a" / "w").samefile(tmp_path / "b" / "w")
    assert not (tmp_path / "a" / "handlers" / "base.py").samefile(tmp_path / "b" / "handlers" / "base.py")
    assert mar.verify(tmp_path / "b").problems() == []


def test_a_strangers_deflated_archive_in_normal_form(tmp_path: Path, weights: Path) -> None:
    """What torch-model-archiver's default format makes: the contents stay, and get digests."""
    with zipfile.ZipFile(tmp_path / "s.mar", "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr(mar.MANIFEST, MANIFEST)
        opened.writestr("c.yaml", b"a: 1\n")
        opened.write(weights, "w")
    made = pack.variant(mar.verify(tmp_path / "s.mar"), tmp_path / "normal.mar", {})
    assert made.digests is not None
    assert made.build is None
    assert files_in(tmp_path / "normal.mar")["w"] == weights.read_bytes()


# -- what was verified, and nothing else ----------------------------------------------------------


def write_in_place(path: Path, at: int = 0) -> None:
    """Another byte in it, and no trace: size and time are as before."""
    facts, raw = path.stat(), bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def another_file(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"x" * path.stat().st_size)
    other.replace(path)


def a_link_to_the_same(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def one_more(path: Path) -> None:
    path.with_name("extra.py").write_text("")


def gone(path: Path) -> None:
    path.unlink()


def copied(archive: mar.Archive, target: Path) -> None:
    pack.copy(archive, target)


def varied(archive: mar.Archive, target: Path) -> None:
    pack.variant(archive, target, {"c.yaml": b"minWorkers: 2\n"})


def shared(archive: mar.Archive, target: Path) -> None:
    pack.variant(archive, target, {"c.yaml": b"minWorkers: 2\n"}, link=True)


def reversioned(archive: mar.Archive, target: Path) -> None:
    pack.reversioned(archive, target, "9")


CHANGES = [write_in_place, another_file, a_link_to_the_same, a_pipe, longer, one_more, gone]


@pytest.mark.parametrize("make", [copied, varied, shared, reversioned])
@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_that_is_another_by_now_is_not_taken(
    tmp_path: Path,
    weights: Path,
    change: Callable[[Path], None],
    make: Callable[[mar.Archive, Path], None],
) -> None:
    """Code, weights or digests, changed since it was verified, with no trace of it: nothing is made of it."""
    for number, name in enumerate(("handlers/base.py", "w", mar.DIGESTS)):
        here = tmp_path / str(number)
        here.mkdir()
        put({**BUILT, "w": Source.of(weights)}, here / "a")
        archive = mar.verify(here / "a")
        change(here / "a" / name)
        (here / "store").mkdir()
        with pytest.raises(ArchiveError):
            make(archive, here / "store" / "b")
        assert left_in(here / "store") == []


@pytest.mark.parametrize("make", [copied, varied, reversioned])
@pytest.mark.parametrize("where", ["code", "weights", "directory"])
def test_a_mar_that_is_another_by_now_is_not_taken(
    tmp_path: Path, weights: Path, where: str, make: Callable[[mar.Archive, Path], None]
) -> None:
    """The same for the other form: one byte of it, its size and time as before."""
    put({**BUILT, "w": Source.of(weights)}, tmp_path / "a.mar")
    archive = mar.verify(tmp_path / "a.mar")
    raw = (tmp_path / "a.mar").read_bytes()
    at = {
        "code": raw.index(b"VALUE"),
        "weights": raw.index(weights.read_bytes()) + 5,
        "directory": len(raw) - 9,
    }
    write_in_place(tmp_path / "a.mar", at[where])
    (tmp_path / "store").mkdir()
    for target in FORMS if make is not copied else FORMS[:1]:
        with pytest.raises(ArchiveError):
            make(archive, tmp_path / "store" / target)
    assert left_in(tmp_path / "store") == []


def with_checksum(content: bytes, wanted: int) -> bytes:
    """The same but for its last four bytes, which give it this CRC-32."""
    table = [zlib.crc32(bytes([byte])) ^ zlib.crc32(b"\0") for byte in range(256)]
    by_end = {entry >> 24: byte for byte, entry in enumerate(table)}
    steps, state = [], wanted ^ 0xFFFFFFFF
    for _ in range(4):
        steps.append(by_end[state >> 24])
        state = (state ^ table[steps[-1]]) << 8 & 0xFFFFFFFF
    state, last = zlib.crc32(content[:-4]) ^ 0xFFFFFFFF, b""
    for step in reversed(steps):
        last += bytes([(state ^ step) & 0xFF])
        state = state >> 8 ^ table[step]
    return content[:-4] + last


@pytest.mark.parametrize("make", [copied, varied, reversioned])
def test_weights_of_the_same_checksum_are_not_taken(
    tmp_path: Path, weights: Path, make: Callable[[mar.Archive, Path], None]
) -> None:
    """A CRC-32 is easily kept: what lies in a .mar is held against its SHA-256."""
    put({**BUILT, "w": Source.of(weights)}, tmp_path / "a.mar")
    archive, content = mar.verify(tmp_path / "a.mar"), weights.read_bytes()
    other = with_checksum(b"evil" + content[4:], zlib.crc32(content))
    assert zlib.crc32(other) == zlib.crc32(content)
    (tmp_path / "a.mar").write_bytes((tmp_path / "a.mar").read_bytes().replace(content, other))
    (tmp_path / "store").mkdir()
    for target in FORMS if make is not copied else FORMS[:1]:
        with pytest.raises(ArchiveError, match="changed"):
            make(archive, tmp_path / "store" / target)
    assert left_in(tmp_path / "store") == []


def test_a_copy_is_the_same_and_shares_no_file(original: mar.Archive, tmp_path: Path) -> None:
    """What somebody writes into the original later is not in the copy; nor is it where a variant is made."""
    (tmp_path / "store").mkdir()
    suffix = original.path.suffix
    copy, changed = tmp_path / "store" / f"copy{suffix}", tmp_path / "store" / f"variant{suffix}"
    pack.copy(original, copy)
    pack.variant(original, changed, {"c.yaml": b"a: 1\n"})
    assert mar.verify(copy).contents_sha256 == original.contents_sha256
    assert copy.is_dir() or copy.read_bytes() == original.path.read_bytes()
    inodes = {path.stat().st_ino for path in (original.path, *original.path.rglob("*"))}
    made = [path for root in (copy, changed) for path in (root, *root.rglob("*"))]
    assert [
        path for path in made if path.stat().st_ino in inodes or (path.is_file() and path.stat().st_nlink > 1)
    ] == []
    with pytest.raises(ArchiveExists):
        pack.copy(original, copy)


def test_a_strangers_folder_is_copied_with_digests(tmp_path: Path, weights: Path) -> None:
    """It had none: the copy's are those of what was verified."""
    for name, content in {**SMALL, "w": weights.read_bytes()}.items():
        assert isinstance(content, bytes)
        (tmp_path / "a" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "a" / name).write_bytes(content)
    stranger = mar.verify(tmp_path / "a")
    pack.copy(stranger, tmp_path / "b")
    assert stranger.digests is None
    assert mar.verify(tmp_path / "b").digests is not None
    assert mar.verify(tmp_path / "b").contents_sha256 == stranger.contents_sha256


# -- what Java reads -----------------------------------------------------------------------------


def test_sizes_stand_before_the_data(tmp_path: Path, weights: Path) -> None:
    """TorchServe unpacks from the beginning: each local header tells CRC and sizes, and leads to the next."""
    contents = {**SMALL, "w": Source.of(weights)}
    put(contents, tmp_path / "a.mar")
    raw, at, seen = (tmp_path / "a.mar").read_bytes(), 0, []
    while raw[at : at + 4] == b"PK\3\4":
        fields = struct.unpack("<5H3L2H", raw[at + 4 : at + 30])
        method, (crc, stored, size, name, extra) = fields[2], fields[5:]
        data = at + 30 + name + extra
        assert (method, stored) == (0, size)
        assert zlib.crc32(raw[data : data + size]) == crc
        seen.append(raw[at + 30 : at + 30 + name].decode())
        at = data + size
    assert seen == [*sorted(contents), mar.DIGESTS]


def test_steps_end_on_round_positions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Path) -> None:
    """Whatever stands before the data; see _moved."""
    ends: list[int] = []
    copy = source_module._copy

    def record(source: int, sink: int, count: int, offset: int, at: int) -> int:
        ends.append(at + count)
        return copy(source, sink, count, offset, at)

    monkeypatch.setattr(source_module, "_copy", record)
    put({**SMALL, "w": Source.of(weights)}, tmp_path / "a.mar")
    assert len(ends) >= 2
    assert {end % (64 << 10) for end in ends[:-1]} == {0}


def test_what_python_has_cached_is_not_packed(tmp_path: Path) -> None:
    """The code of a model has run there by then; where bytecode is written, it lies beside it."""
    (tmp_path / "code" / "__pycache__").mkdir(parents=True)
    (tmp_path / "code" / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"x")
    (tmp_path / "code" / "a.py").write_bytes(b"1\n")
    assert pack.contents_of(tmp_path) == {"code/a.py": b"1\n"}
