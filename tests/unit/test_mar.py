"""Reading a .mar: ours is whole or told what is not, and no file makes anything but an ArchiveError."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchmar import mar
from torchmar.errors import ArchiveCorrupt, ArchiveError
from torchmar.unpack import _names

MANIFEST = {"model": {"modelName": "small", "handler": "handler.py"}}

Contents = dict[str, bytes]


def contents(path: Path) -> Contents:
    """Every file of a zip."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_zip(path: Path, files: Mapping[str, Any], compression: int = zipfile.ZIP_STORED) -> Path:
    """A zip with sound checksums; what is neither bytes nor text is written as JSON."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            raw = content if isinstance(content, bytes | str) else json.dumps(content)
            archive.writestr(name, raw)
    return path


def stranger(
    path: Path, manifest: Any = MANIFEST, compression: int = zipfile.ZIP_DEFLATED, **more: Any
) -> Path:
    """A small archive as others build them: deflated, without digests."""
    files = {mar.MANIFEST: manifest, "handler.py": "def handle(data, context): return data\n" * 20, **more}
    return write_zip(path, files, compression)


@pytest.fixture(params=["tiny_eager", "tiny_onnx"])
def ours(request: pytest.FixtureRequest) -> Path:
    """Each of the archives that torchmar built."""
    path: Path = request.getfixturevalue(request.param)
    return path


# -- ours ---------------------------------------------------------------------------------------


def test_what_we_built_is_whole(ours: Path) -> None:
    """verify() finds nothing, and read() tells what is inside."""
    archive = mar.verify(ours)
    assert archive.problems() == []
    assert (archive.path, archive.name) == (ours, "tiny")
    assert f"tiny-{archive.version}.mar" == ours.name
    assert archive.manifest["model"]["handler"] == "handler.py"
    assert archive.config["handler"]["models"]["model"]["file"] in {file.name for file in archive.files}
    assert archive.digests is not None
    assert archive.build is not None
    assert archive.parity is not None
    assert {file.name: file.size for file in archive.files} == {
        name: len(content) for name, content in contents(ours).items()
    }


def test_one_changed_byte_in_any_file_is_named(ours: Path, tmp_path: Path) -> None:
    """Each file in turn, one byte of it changed, the zip's own checksums made anew."""
    original = contents(ours)
    chance = random.Random(0)
    target = tmp_path / "changed.mar"
    for name in sorted(original.keys() - {mar.DIGESTS}):
        changed = bytearray(original[name])
        if changed:
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        else:  # an empty __init__.py has no byte to change
            changed += b"\0"
        write_zip(target, {**original, name: bytes(changed)})
        with pytest.raises(ArchiveCorrupt) as caught:
            mar.verify(target)
        message = str(caught.value)
        assert message.startswith(f"{target}: ")
        # A manifest that is no longer JSON is told as such, and nothing else then.
        told = (": changed after the build", " is not JSON", " is not YAML")
        assert any(f"{name}{what}" in message for what in told), message


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_changed_byte_in_the_digests_is_found(tiny_onnx: Path, tmp_path: Path, data: st.DataObject) -> None:
    """They cannot hold their own digest; but what they say no longer fits the rest."""
    original = contents(tiny_onnx)
    digests = bytearray(original[mar.DIGESTS])
    position = data.draw(st.integers(0, len(digests) - 1))
    digests[position] = data.draw(st.integers(0, 255).filter(lambda byte: byte != digests[position]))
    target = write_zip(tmp_path / "changed.mar", {**original, mar.DIGESTS: bytes(digests)})
    try:
        same = json.loads(digests) == json.loads(original[mar.DIGESTS])
    except ValueError:
        same = False
    if same:  # another kind of white space
        mar.verify(target)
    else:
        with pytest.raises(ArchiveCorrupt, match=r"changed\.mar"):
            mar.verify(target)


def test_removed_and_added_files_are_named(tiny_onnx: Path, tmp_path: Path) -> None:
    """All in one message, each with what became of it, and what to do next."""
    files = contents(tiny_onnx)
    del files["handlers/base.py"], files["model_source/labels.txt"]
    files = {**files, "extra.py": b"", "handlers/requests.py": b""}
    target = write_zip(tmp_path / "other.mar", files)
    with pytest.raises(ArchiveCorrupt) as caught:
        mar.verify(target)
    assert str(caught.value).splitlines() == [
        f"{target}: does not match its digests",
        "  handlers/base.py: missing",
        "  model_source/labels.txt: missing",
        "  extra.py: added after the build",
        "  handlers/requests.py: changed after the build",
        "  Rebuild it, or fetch it again from its origin",
    ]
    assert mar.read(target).problems() == [line.strip() for line in str(caught.value).splitlines()[1:-1]]


@pytest.mark.parametrize("entry", [5, None, [], {}, {"sha256": 1}, {"sha256": "0" * 64, "size": 0}])
def test_digests_of_another_form_are_no_match(tiny_onnx: Path, tmp_path: Path, entry: Any) -> None:
    """Someone may have written them by hand: that is a difference and not a TypeError."""
    files = contents(tiny_onnx)
    digests = json.loads(files[mar.DIGESTS])
    digests["files"]["model_source/labels.txt"] = entry
    target = write_zip(tmp_path / "other.mar", {**files, mar.DIGESTS: json.dumps(digests)})
    with pytest.raises(ArchiveCorrupt, match=r"model_source/labels\.txt: changed after the build"):
        mar.verify(target)


@pytest.mark.parametrize("digests", [{}, {"files": []}, {"files": {}}, {"files": {}, "algorithm": "md5"}])
def test_digests_that_say_nothing_are_refused(tmp_path: Path, digests: Any) -> None:
    """They must not make an archive look verified."""
    path = stranger(tmp_path / "s.mar", **{mar.DIGESTS: digests})
    with pytest.raises(ArchiveCorrupt, match=r"MAR-INF/digests\.json"):
        mar.verify(path)


def test_extract_gives_every_file_as_it_was(tiny_eager: Path, tmp_path: Path) -> None:
    """What a worker would find."""
    mar.extract(tiny_eager, tmp_path / "out")
    found = {
        str(file.relative_to(tmp_path / "out")): file.read_bytes()
        for file in (tmp_path / "out").rglob("*")
        if file.is_file()
    }
    assert found == contents(tiny_eager)


# -- a stranger's -------------------------------------------------------------------------------


def test_an_archive_of_torch_model_archiver_reads_fine(tmp_path: Path) -> None:
    """Built by the stock command line: no digests, so nothing to hold against it."""
    (tmp_path / "my_handler.py").write_text("def handle(data, context): return data\n")
    (tmp_path / "config.yaml").write_text("minWorkers: 1\n")
    command = [sys.executable, "-m", "model_archiver.model_packaging"]
    command += ["--model-name", "strange", "--version", "3", "--handler", str(tmp_path / "my_handler.py")]
    command += ["--config-file", str(tmp_path / "config.yaml"), "--export-path", str(tmp_path)]
    # package_model uses <tempdir>/<model name>: give it a tempdir of its own
    (tmp_path / "temp").mkdir()
    subprocess.run(command, check=True, env={"TMPDIR": str(tmp_path / "temp")}, timeout=60)
    archive = mar.verify(tmp_path / "strange.mar")
    assert (archive.name, archive.version) == ("strange", "3")
    assert archive.config == {"minWorkers": 1}
    assert (archive.digests, archive.build, archive.parity) == (None, None, None)
    assert {file.name for file in archive.files} == {mar.MANIFEST, "my_handler.py", "config.yaml"}


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_strangers_archive_without_digests_is_read(tmp_path: Path, compression: int) -> None:
    """However it is compressed; the version is TorchServe's default where there is none."""
    archive = mar.verify(stranger(tmp_path / "s.mar", compression=compression))
    assert (archive.name, archive.version, archive.config) == ("small", "1.0", {})


# -- what is no archive -------------------------------------------------------------------------


def not_a_zip(path: Path) -> None:
    """A file of text."""
    path.write_text("not a zip")


def empty(path: Path) -> None:
    """No byte at all."""
    path.touch()


def folder(path: Path) -> None:
    """A folder by that name."""
    path.mkdir()


def truncated(path: Path) -> None:
    """A download that broke off."""
    stranger(path)
    path.write_bytes(path.read_bytes()[:-30])


def with_manifest(manifest: Any) -> Callable[[Path], None]:
    """Sound but for its manifest."""

    def write(path: Path) -> None:
        stranger(path, manifest)

    return write


def with_config(content: bytes) -> Callable[[Path], None]:
    """Sound but for its config."""

    def write(path: Path) -> None:
        more: dict[str, Any] = {"c.yaml": content}
        stranger(path, {"model": {"modelName": "s", "configFile": "c.yaml"}}, **more)

    return write


def without_manifest(path: Path) -> None:
    """A zip of something else."""
    write_zip(path, {"readme.txt": "hello"})


def encrypted(path: Path) -> None:
    """The flag that says an entry needs a password, in both of an entry's headers."""
    stranger(path)
    raw = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = raw.find(signature)
        while start != -1:
            raw[start + offset] |= 1
            start = raw.find(signature, start + 1)
    path.write_bytes(bytes(raw))


def twice(path: Path) -> None:
    """Which one TorchServe would take is anyone's guess."""
    stranger(path)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("handler.py", "import os")


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (not_a_zip, "not a model archive"),
        (empty, "not a model archive"),
        (folder, "has no MAR-INF/MANIFEST.json with a model in it"),
        (truncated, "not a model archive"),
        (without_manifest, "has no MAR-INF/MANIFEST.json with a model in it"),
        (with_manifest("{"), "MANIFEST.json is not JSON"),
        (with_manifest(b"\xff\xfe{}"), "MANIFEST.json is not JSON"),
        (with_manifest("[" * 100_000), "MANIFEST.json is not JSON"),
        (with_manifest([]), "holds no JSON object"),
        (with_manifest({}), "with a model in it"),
        (with_manifest({"model": "m"}), "with a model in it"),
        (with_manifest({"model": {}}), "names no model"),
        (with_manifest({"model": {"modelName": None}}), "names no model"),
        (with_manifest({"model": {"modelName": "s", "configFile": "c.yaml"}}), "names c.yaml"),
        (with_manifest({"model": {"modelName": "s", "configFile": ["c"]}}), "which it does not hold"),
        (with_config(b"a: [1"), "c.yaml is not YAML"),
        (with_config(b"\xff\xff\x00"), "c.yaml is not YAML"),
        (with_config(b"a: !!bool maybe"), "c.yaml is not YAML"),
        (with_config(b"a: !!timestamp now"), "c.yaml is not YAML"),
        (encrypted, "encrypted"),
        (twice, "'handler.py' is there more than once"),
    ],
)
def test_what_is_no_sound_archive_is_refused_with_its_path(
    tmp_path: Path, make: Callable[[Path], None], what: str
) -> None:
    """Each of them is an ArchiveCorrupt that says which file and why."""
    path = tmp_path / "bad.mar"
    make(path)
    with pytest.raises(ArchiveCorrupt) as caught:
        mar.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert what in str(caught.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    """Not corrupt: not there."""
    with pytest.raises(ArchiveError, match=r"missing\.mar: no such file") as caught:
        mar.read(tmp_path / "missing.mar")
    assert not isinstance(caught.value, ArchiveCorrupt)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "a\\..\\x", "C:\\x", "../../strange/x"])
@pytest.mark.parametrize("use", [mar.read, lambda path: mar.extract(path, path.parent / "out")])
def test_a_path_that_leads_out_is_refused_before_anything_is_written(
    tmp_path: Path, name: str, use: Callable[[Path], Any]
) -> None:
    """TorchServe's own check lets some of these through."""
    (tmp_path / "in").mkdir()
    more: dict[str, Any] = {name: "boo"}
    path = stranger(tmp_path / "in" / "bad.mar", **more)
    with pytest.raises(ArchiveCorrupt, match="leads out of the archive") as caught:
        use(path)
    assert repr(name) in str(caught.value)
    assert [file.name for file in tmp_path.rglob("*")] == ["in", "bad.mar"]


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many files, or too many bytes by what the zip's directory says."""
    path = stranger(tmp_path / "s.mar")
    monkeypatch.setattr(_names, "MAX_FILES", 1)
    with pytest.raises(ArchiveCorrupt, match=r"s\.mar: has more than 1 files: too much"):
        mar.read(path)
    monkeypatch.setattr(_names, "MAX_FILES", 2)
    assert mar.read(path).name == "small"
    monkeypatch.setattr(_names, "MAX_BYTES", 100)
    with pytest.raises(ArchiveCorrupt, match="too much for a model"):
        mar.extract(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# -- anything at all ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def raws(tiny_eager: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A real archive, and small ones of both kinds of compression."""
    place = tmp_path_factory.mktemp("raws") / "s.mar"
    kinds = {"stored": 0, "deflated": zipfile.ZIP_DEFLATED}
    found = {name: stranger(place, compression=kind).read_bytes() for name, kind in kinds.items()}
    return {**found, "real": tiny_eager.read_bytes()}


def damages(size: int, chance: random.Random) -> Iterator[tuple[int, int]]:
    """One to six positions with a byte each; half of them in the zip's directory at the end."""
    for _ in range(chance.randint(1, 6)):
        first = chance.choice([0, max(0, size - 400)])
        yield chance.randrange(first, size), chance.choice([0, 1, 0x7F, 0xFF, chance.randrange(256)])


@pytest.mark.parametrize(("kind", "times"), [("stored", 400), ("deflated", 400), ("real", 60)])
def test_damage_anywhere_is_read_or_refused(
    raws: dict[str, bytes], tmp_path: Path, kind: str, times: int
) -> None:
    """Random bytes over random places: all goes well, or it is an ArchiveError that names the file."""
    path = tmp_path / "damaged.mar"
    messages = []
    for seed in range(times):
        raw = bytearray(raws[kind])
        for position, byte in damages(len(raw), random.Random(seed)):
            raw[position] = byte
        path.write_bytes(bytes(raw))
        try:
            mar.verify(path)
        except ArchiveError as error:
            messages.append(str(error))
        try:
            mar.extract(path, tmp_path / f"out-{seed}")
        except ArchiveError as error:
            messages.append(str(error))
    assert len(messages) > times // 2
    assert [message for message in messages if not message.startswith(f"{path}: ")] == []


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.sampled_from([b"", b"PK\x03\x04", b"PK\x05\x06"]))
def test_any_bytes_are_refused(tmp_path: Path, content: bytes, start: bytes) -> None:
    """No short file is an archive, and none makes another exception."""
    path = tmp_path / "any.mar"
    path.write_bytes(start + content)
    with pytest.raises(ArchiveError):
        mar.read(path)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.dictionaries(
                st.sampled_from(["model", "modelName", "configFile", "handler", "files", "algorithm"]),
                inner,
                max_size=3,
            )
            | st.lists(inner, max_size=2)
        ),
        max_leaves=8,
    ),
    st.sampled_from([mar.MANIFEST, mar.DIGESTS, mar.BUILD, mar.PARITY]),
)
def test_any_json_in_mar_inf_is_read_or_refused(tmp_path: Path, content: Any, name: str) -> None:
    """What a stranger writes there is never trusted to have a form."""
    path = write_zip(tmp_path / "s.mar", {mar.MANIFEST: MANIFEST, name: content})
    try:
        archive = mar.verify(path)
    except ArchiveError:
        return
    assert archive.name
    assert archive.version


# -- configurations -------------------------------------------------------------------------------


def _laughs() -> str:
    """Six levels of nine aliases each: 50 bytes a level, half a million values at the end of it."""
    lines = ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    for name, below in zip("bcdef", "abcde", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{below}'] * 9)}]")
    return "\n".join(lines)


@pytest.mark.parametrize("config", ["&a {b: *a}", _laughs()], ids=["itself", "each-other"])
def test_a_config_that_expands_without_end_is_refused(tmp_path: Path, config: str) -> None:
    """Anchors that contain themselves, or each other many times over."""
    path = tmp_path / "bomb.mar"
    model = {"modelName": "m", "handler": "h.py", "configFile": "c.yaml"}
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": model}))
        opened.writestr("c.yaml", config)
    with pytest.raises(ArchiveCorrupt, match=r"expands without end"):
        mar.read(path)


@pytest.mark.parametrize(
    "number", ["0x" + "f" * 5_000, "9" * 400, "1" + ":59" * 300_000, "!!int '" + "1" * 300 + "'"]
)
@pytest.mark.parametrize("name", ["c.yaml", mar.SPEC])
def test_a_number_that_nobody_can_print_is_refused(tmp_path: Path, number: str, name: str) -> None:
    """Python writes no more than 4,300 digits, and no float has more than 308."""
    path = tmp_path / "number.mar"
    model = {"modelName": "m", "handler": "h.py", "configFile": "c.yaml"}
    texts = {"c.yaml": "{}", name: f"accept: {{max_abs_error: {number}}}"}
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": model}))
        for file, text in texts.items():
            opened.writestr(file, text)
    with pytest.raises(ArchiveCorrupt, match=r"is not YAML: a number has [\d,]+ digits, at most 250"):
        mar.accepted(mar.read(path))


def test_what_belongs_to_somebody_else_is_no_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`lost+found` in a store, into which nobody but root can look."""
    stranger(tmp_path / "s.mar")
    (tmp_path / "lost+found").mkdir()
    look = Path.is_file

    def refused(path: Path) -> bool:
        if "lost+found" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return look(path)

    monkeypatch.setattr(Path, "is_file", refused)
    assert mar.find_archives(tmp_path) == [tmp_path / "s.mar"]
