"""ModelSpec + artifact → .mar: same bytes from the same inputs, nothing half-done in the store."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from torchmar import archive as archive_module
from torchmar import mar, pack
from torchmar.archive import Built, build
from torchmar.errors import (
    ArchiveCorrupt,
    ArchiveError,
    ArchiveExists,
    ExportError,
    SpecError,
    WeightsUnavailable,
    WorkerLoadError,
)
from torchmar.export import Weights, inputs_digest, load_module
from torchmar.spec import load_model
from torchmar.worker import Request, Worker, check_archive

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "models" / "tiny"
EAGER = {"version": "1.0", "runtime": "eager"}
ONNX = {"version": "2.0", "runtime": "onnx"}

RuntimeAndPath = tuple[str, Path]


@pytest.fixture(params=["eager", "onnx"])
def archive(request: pytest.FixtureRequest) -> RuntimeAndPath:
    """Each runtime, and what was built for it."""
    return request.param, request.getfixturevalue(f"tiny_{request.param}")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the tiny model's folder, to change."""
    return Path(shutil.copytree(TINY, tmp_path / "model", ignore=shutil.ignore_patterns("__pycache__")))


@pytest.fixture
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary directory that is the test's alone, to see what a build leaves in it."""
    folder = tmp_path / "temp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def store_with(path: Path, folder: Path) -> Path:
    """A store in `folder` that holds a copy of an archive."""
    store = folder / "store"
    store.mkdir()
    shutil.copyfile(path, store / path.name)
    return store


def files_in(path: Path) -> dict[str, bytes]:
    """Every file of an archive."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file under a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def python(code: str, **options: Any) -> str:
    """Run code in a fresh interpreter; what it prints."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False, **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- the same bytes -----------------------------------------------------------------------------


def test_another_process_folder_and_umask_give_the_same_bytes(tiny_store: Path, model: Path) -> None:
    """Built again elsewhere: other source folder, store, cwd, hash seed, umask, clock and tempdir."""
    temp = model.parent / "another" / "temp"
    temp.mkdir(parents=True)
    code = f"""
import os
from pathlib import Path
from torchmar.archive import build
from torchmar.spec import load_model
os.umask(0o077)
for overrides in ({EAGER}, {ONNX}):
    print(build(load_model(Path("model"), overrides), Path("another/store")).archive.sha256)
"""
    changed = {"PYTHONHASHSEED": "4711", "TMPDIR": str(temp), "TZ": "Asia/Tokyo", "PYTHONPATH": str(ROOT)}
    changed["ORT_DISABLE_TELEMETRY"] = "1"  # onnxruntime's leaves a file .ses in the tempdir
    found = python(code, cwd=model.parent, env={**os.environ, **changed}).split()
    assert found == [mar.read(tiny_store / f"tiny-{version}.mar").sha256 for version in ("1.0", "2.0")]
    assert sorted(path.name for path in (model.parent / "another" / "store").iterdir()) == [
        "tiny-1.0.mar",
        "tiny-2.0.mar",
    ]
    # The cache of torch is its own affair.
    assert [path for path in temp.iterdir() if not path.name.startswith("torchinductor_")] == []


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A .mar as torch-model-archiver leaves it: deflated, its own times, in any order, with folders."""
    path = tmp_path / "raw.mar"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/", b"")
        archive.writestr("folder/b.py", "b")
        archive.writestr(mar.MANIFEST, json.dumps({"model": {"modelName": "m", "handler": "a.py"}}))
        archive.writestr("a.py", "a")
    return path


@pytest.mark.parametrize(
    ("epoch", "date_time"),
    [
        (None, (1980, 1, 1, 0, 0, 0)),
        ("0", (1980, 1, 1, 0, 0, 0)),
        ("1700000000", (2023, 11, 14, 22, 13, 20)),
        ("4354819198", (2107, 12, 31, 23, 59, 58)),
    ],
)
def test_source_date_epoch_is_the_time_of_every_entry(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: str | None, date_time: Any
) -> None:
    """The convention of reproducible builds, within the years that a zip can say."""
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    if epoch is not None:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    pack.variant(mar.verify(raw), tmp_path / "normal.mar", {})
    with zipfile.ZipFile(tmp_path / "normal.mar") as archive:
        assert {info.date_time for info in archive.infolist()} == {date_time}


@pytest.mark.parametrize("epoch", ["", "yesterday", "-1", "1.5", "²", "4354819200", "9" * 30])
def test_a_wrong_source_date_epoch_is_told_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: str
) -> None:
    """Not after minutes of export, and not as a traceback."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    with pytest.raises(ArchiveError, match="SOURCE_DATE_EPOCH"):
        build(load_model(TINY, EAGER), tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_normal_form_has_the_files_and_nothing_else(raw: Path, tmp_path: Path) -> None:
    """Sorted, no folders, and digests of all of them."""
    pack.variant(mar.verify(raw), tmp_path / "normal.mar", {})
    assert list(files_in(tmp_path / "normal.mar")) == [mar.MANIFEST, "a.py", "folder/b.py", mar.DIGESTS]
    assert mar.verify(tmp_path / "normal.mar").problems() == []


def test_every_entry_is_stored_with_the_same_attributes(archive: RuntimeAndPath) -> None:
    """Not deflated, one mode, one time, and sizes before the data: TorchServe reads it as a stream."""
    with zipfile.ZipFile(archive[1]) as opened:
        infos = opened.infolist()
    names = [info.filename for info in infos]
    assert names == [*sorted(set(names) - {mar.DIGESTS}), mar.DIGESTS]
    assert {info.compress_type for info in infos} == {zipfile.ZIP_STORED}
    assert {(info.create_system, info.external_attr) for info in infos} == {(3, 0o100644 << 16)}
    assert {info.flag_bits & 0x08 for info in infos} == {0}


# -- what is inside -----------------------------------------------------------------------------


def test_it_holds_what_torchserve_needs(archive: RuntimeAndPath) -> None:
    """A manifest whose handler and config are there, and a config with TorchServe's own names."""
    runtime, path = archive
    files = files_in(path)
    model = json.loads(files["MAR-INF/MANIFEST.json"])["model"]
    assert (model["modelName"], model["modelVersion"]) == ("tiny", path.stem.removeprefix("tiny-"))
    assert "from handlers.image_classifier import Handler as Task" in files[model["handler"]].decode()
    config = yaml.safe_load(files[model["configFile"]])
    assert config["handler"]["models"]["model"]["file"] in files
    assert {key: value for key, value in config.items() if key != "handler"} == {
        "minWorkers": 1,
        "maxWorkers": 1,
        "batchSize": 8,
        "maxBatchDelay": 200,
        "responseTimeout": 10,
        "startupTimeout": 120,
        "maxRetryTimeoutInSec": 20,
        "jobQueueSize": 300,
    }
    assert files["model_source/labels.txt"] == (TINY / "labels.txt").read_bytes()
    handlers = {name for name in files if name.startswith("handlers/")}
    assert {"handlers/base.py", "handlers/images/pictures.py", "handlers/labels/imagenet1k.txt"} <= handlers
    assert all(files[name] == (ROOT / name).read_bytes() for name in handlers)
    of_other_tasks = {"object_detector", "texts", "audio", "tabular"}
    assert not {name.split("/")[1].removesuffix(".py") for name in handlers} & of_other_tasks
    assert ("sitecustomize.py" in files) == (runtime == "onnx")
    assert ("model_source/load.py" in files) == (runtime == "eager")


def test_it_tells_what_it_was_made_of(archive: RuntimeAndPath) -> None:
    """The spec, the parity, the versions and the module's own golden answers."""
    runtime, path = archive
    opened, files = mar.read(path), files_in(path)
    assert opened.build is not None
    assert opened.parity is not None
    assert opened.build["weights"] == {"origin": "pretrained", "seed": 0}
    assert {"python", "torch", "numpy"} <= opened.build["toolchain"].keys()
    assert (opened.parity["runtime"], opened.parity["inputs"], opened.parity["golden"]) == (runtime, 6, 2)
    assert opened.parity["agreement"] == 1.0
    assert files["MAR-INF/model.yaml"] == (TINY / "model.yaml").read_bytes()
    golden = {file.name: file.read_bytes() for file in (TINY / "golden").iterdir()}
    assert {name: files[f"MAR-INF/golden/{name}"] for name in golden} == golden
    answers = json.loads(files[mar.GOLDEN_ANSWERS])
    assert answers.keys() == golden.keys()
    assert all(0 <= answer["answer"][0]["index"] < 10 for answer in answers.values())


def test_nothing_of_this_machine_is_inside(archive: RuntimeAndPath) -> None:
    """No path of the checkout, of the temporary directory, of the environment; no user, no host name."""
    import getpass
    import socket

    secrets = {str(ROOT), sys.prefix, str(Path.home()), tempfile.gettempdir() + "/", "torchmar-build-"}
    secrets |= {f"/{getpass.getuser()}/"}
    secrets |= {name for name in (socket.gethostname(),) if len(name) > 6}  # "vm" is in other words, too
    for name, content in files_in(archive[1]).items():
        assert [secret for secret in secrets if secret.encode() in content] == [], name


# -- building again -----------------------------------------------------------------------------


def test_the_same_inputs_again_are_recognised_without_torch(tiny_onnx: Path, tmp_path: Path) -> None:
    """At once, leaving the file as it is: this is what every `torchmar archive` after the first does."""
    store = store_with(tiny_onnx, tmp_path)
    before = (store / tiny_onnx.name).stat()
    code = f"""
import sys
from pathlib import Path
from torchmar.archive import build
from torchmar.spec import load_model
said = []
built = build(load_model(Path({str(TINY)!r}), {ONNX}), Path({str(store)!r}), progress=said.append)
heavy = {{"torch", "onnx", "onnxruntime", "torchvision"}} & sys.modules.keys()
print(built.was_there, built.check, said, heavy)
"""
    assert python(code, cwd=ROOT).strip() == "True None [] set()"
    after = (store / tiny_onnx.name).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def change_code(model: Path) -> None:
    (model / "load.py").write_text((model / "load.py").read_text() + "# changed\n")


def change_labels(model: Path) -> None:
    (model / "labels.txt").write_text("\n".join("abcdefghij") + "\n")


def change_golden(model: Path) -> None:
    (model / "golden" / "noise.png").unlink()


def change_spec(model: Path) -> None:
    text = (model / "model.yaml").read_text()
    (model / "model.yaml").write_text(text.replace("topk: 3", "topk: 4"))


def change_comment(model: Path) -> None:
    (model / "model.yaml").write_text((model / "model.yaml").read_text() + "# changed\n")


def change_helper(model: Path) -> None:
    (model / "helper.py").touch()


@pytest.mark.parametrize(
    "change", [change_code, change_labels, change_golden, change_spec, change_comment, change_helper]
)
def test_other_contents_under_the_same_name_are_refused(
    tiny_eager: Path, model: Path, tmp_path: Path, change: Any
) -> None:
    """Whatever of its inputs changed: before any export, saying what to do, the old bytes untouched."""
    store = store_with(tiny_eager, tmp_path)
    before = snapshot(store)
    assert build(load_model(model, EAGER), store).was_there
    change(model)
    said: list[str] = []
    said_so = r"nothing was built or checked.*raise `version`.*--replace"
    with pytest.raises(ArchiveExists, match=said_so) as caught:
        build(load_model(model, EAGER), store, progress=said.append)
    assert str(store / "tiny-1.0.mar") in str(caught.value)
    assert said == []
    assert snapshot(store) == before


@pytest.mark.parametrize(
    ("weights", "environment", "overrides"),
    [
        (Weights("random"), {}, EAGER),
        (Weights(seed=1), {}, EAGER),
        (Weights(), {"SOURCE_DATE_EPOCH": "1700000000"}, EAGER),
        (Weights(), {}, {**EAGER, "runtime": "onnx"}),
    ],
)
def test_other_weights_time_or_runtime_are_other_contents(
    tiny_eager: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    weights: Weights,
    environment: dict[str, str],
    overrides: dict[str, str],
) -> None:
    """What is no file shapes the archive too."""
    store = store_with(tiny_eager, tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ArchiveExists):
        build(load_model(TINY, overrides), store, weights=weights)


def test_a_damaged_archive_is_not_up_to_date(tiny_eager: Path, tmp_path: Path) -> None:
    """It says that it was built from the same inputs, and does not hold what was built."""
    store = store_with(tiny_eager, tmp_path)
    with zipfile.ZipFile(store / tiny_eager.name, "w") as archive:
        for name, content in files_in(tiny_eager).items():
            archive.writestr(name, content + b"\n" if name == "handlers/base.py" else content)
    with pytest.raises(ArchiveCorrupt, match=r"(?s)handlers/base\.py: changed.*--replace"):
        build(load_model(TINY, EAGER), store)


def test_a_store_that_cannot_be_is_told(tmp_path: Path) -> None:
    """A file where the store should be."""
    (tmp_path / "store").touch()
    with pytest.raises(ArchiveError, match="store: no folder"):
        build(load_model(TINY, EAGER), tmp_path / "store")


@pytest.mark.parametrize("directory", [False, True])
def test_a_store_that_takes_no_file_is_told_before_anything_is_built(tmp_path: Path, directory: bool) -> None:
    """Not after minutes of export."""
    store, said = tmp_path / "store", list[str]()
    store.mkdir(mode=0o555)
    with (
        unprivileged(),
        pytest.raises(ArchiveError, match=r"store: no folder to put archives in: Permission"),
    ):
        build(load_model(TINY, EAGER), store, directory=directory, progress=said.append)
    assert said == []


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """As somebody whom permissions hold for."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_that_may_not_be_read_is_told_by_name(
    tiny_eager: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the model's, which is not that of `--weights`."""
    (model / "notes.txt").touch()

    def read(path: Path) -> str:
        if path.name == "notes.txt":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return mar.file_sha256(path)

    monkeypatch.setattr("torchmar.export._inputs.file_sha256", read)
    with pytest.raises(SpecError, match=r"notes\.txt: cannot be read: Permission denied") as caught:
        build(load_model(model, EAGER), store_with(tiny_eager, tmp_path))
    assert "--weights" not in str(caught.value)


@pytest.mark.parametrize("function", ["copyfile", "write_text"])
def test_a_full_disk_is_told_with_what_is_free(
    model: Path, temp: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    """Where things are staged, which need not be where the store is."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/somewhere/x")

    monkeypatch.setattr(shutil if function == "copyfile" else Path, function, full)
    with pytest.raises(ArchiveError, match=r"make room, or set TMPDIR .* bytes are free in ") as caught:
        build(load_model(model, EAGER), model.parent / "store")
    assert str(temp) in str(caught.value)
    assert snapshot(model.parent / "store") == {}


# -- what an archive is made of -----------------------------------------------------------------


def test_torchmars_own_source_is_no_input(
    monkeypatch: pytest.MonkeyPatch, tiny_eager: Path, tmp_path: Path
) -> None:
    """A comment that changed there is no other archive; its version and FORMAT are."""
    store = store_with(tiny_eager, tmp_path)
    digested: list[Path] = []
    read = Path.read_bytes

    def noted(self: Path) -> bytes:
        digested.append(self)
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", noted)
    assert build(load_model(TINY, EAGER), store).was_there
    assert (ROOT / "handlers" / "base.py").resolve() in {path.resolve() for path in digested}
    assert [path for path in digested if (ROOT / "torchmar") in path.resolve().parents] == []
    monkeypatch.setattr(archive_module, "FORMAT", archive_module.FORMAT + 1)
    with pytest.raises(ArchiveExists):
        build(load_model(TINY, EAGER), store)


def test_the_format_is_raised_when_archives_become_others(tiny_eager: Path) -> None:
    """Of the same inputs: then those of before are out of date. Raise FORMAT, and put the new digest here."""
    files = files_in(tiny_eager)
    ours = {
        name: content
        for name, content in files.items()
        if name.startswith(("handler.py", "model-config", "MAR-INF/MANIFEST", "MAR-INF/golden/answers"))
    }
    names = sorted(name for name in files if not name.startswith("handlers/"))
    content = json.dumps([names, {name: text.decode() for name, text in ours.items()}], sort_keys=True)
    found = hashlib.sha256(content.encode()).hexdigest()[:16]
    assert (archive_module.FORMAT, found) == (4, "1670c7d2bc29fc15")


def test_golden_requests_outside_the_folder_are_inputs_too(model: Path, tmp_path: Path) -> None:
    """An archive with other ones is another."""
    golden = tmp_path / "elsewhere"
    shutil.move(model / "golden", golden)
    text = (model / "model.yaml").read_text().replace("golden: golden", "golden: ../elsewhere")
    (model / "model.yaml").write_text(text)
    before = inputs_digest(load_model(model), Weights())
    (golden / "noise.png").unlink()
    assert inputs_digest(load_model(model), Weights()) != before


# -- builds that succeed ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def variant(tmp_path_factory: pytest.TempPathFactory) -> tuple[Built, list[str], Path]:
    """One more build, from variant.yaml: random weights, requirements, over another archive by force.

    Its tempdir holds a folder of the model's name, which is someone else's.
    """
    folder = tmp_path_factory.mktemp("variant")
    shutil.copytree(TINY, folder / "model")
    text = (TINY / "model.yaml").read_text() + "requirements: [torchvision>=0.1, 'einops==0.8']\n"
    (folder / "model" / "model.yaml").rename(folder / "model" / "variant.yaml")
    (folder / "model" / "variant.yaml").write_text(text)
    (folder / "store").mkdir()
    (folder / "store" / "tiny-1.0.mar").write_text("another")
    (folder / "temp" / "tiny").mkdir(parents=True)
    (folder / "temp" / "tiny" / "precious").touch()
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder / "temp"))
        patch.setattr(tempfile, "tempdir", str(folder / "temp"))
        patch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        source = load_model(folder / "model" / "variant.yaml", EAGER)
        built = build(
            source, folder / "store", weights=Weights("random", 7), force=True, progress=said.append
        )
    return built, said, folder


def test_force_replaces_what_is_there(variant: tuple[Built, list[str], Path]) -> None:
    """Asked for, even something that is no archive gives way; nothing else lies in the store."""
    built, _, folder = variant
    assert not built.was_there
    assert mar.verify(folder / "store" / "tiny-1.0.mar") == built.archive
    assert [path.name for path in (folder / "store").iterdir()] == ["tiny-1.0.mar"]


def test_the_manifest_has_the_time_of_the_entries(variant: tuple[Built, list[str], Path]) -> None:
    """torch-model-archiver writes when it was run."""
    assert variant[0].archive.manifest["createdOn"] == "14/11/2023 22:13:20"


def test_a_folder_in_the_tempdir_that_has_the_models_name_survives(
    variant: tuple[Built, list[str], Path],
) -> None:
    """torch-model-archiver's own package_model would delete it; and nothing of the build stays there."""
    temporary = variant[2] / "temp"
    found = sorted(str(path.relative_to(temporary)) for path in temporary.rglob("*"))
    # torch's own cache, which it makes when it is imported
    assert [name for name in found if not name.startswith("torchinductor_")] == ["tiny", "tiny/precious"]


def test_it_was_loaded_once_and_asked_its_golden_requests(variant: tuple[Built, list[str], Path]) -> None:
    """A build says what it does, and ends with a check in a worker."""
    built, said, _ = variant
    assert said == [
        "importing torch",
        "loading the module",
        "asking the module",
        "exporting to eager",
        "checking parity",
        "packing",
        "loading it in a worker",
    ]
    assert built.check is not None
    assert built.check.ok
    assert [result.name for result in built.check.golden] == ["gradient.jpg", "noise.png"]


def test_an_eager_archive_tells_pip_what_it_needs(variant: tuple[Built, list[str], Path]) -> None:
    """`requirements` in the manifest's own file, and the versions in use in the record."""
    built, _, _ = variant
    files = files_in(built.archive.path)
    assert built.archive.manifest["model"]["requirementsFile"] == "requirements.txt"
    assert files["requirements.txt"].decode() == "torchvision>=0.1\neinops==0.8\n"
    assert built.archive.build is not None
    assert built.archive.build["weights"] == {"origin": "random", "seed": 7}
    assert "torchvision" in built.archive.build["toolchain"]


def test_the_spec_inside_is_the_file_that_was_loaded(variant: tuple[Built, list[str], Path]) -> None:
    """A variant of another name is packed as model.yaml."""
    built, _, folder = variant
    packed = files_in(built.archive.path)["MAR-INF/model.yaml"]
    assert packed == (folder / "model" / "variant.yaml").read_bytes()


# -- a folder -----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_folder_has_the_contents_of_the_mar(tiny_store: Path, tiny_folders: Path, version: str) -> None:
    """Byte for byte, so that one digest tells of both; there is nothing else in the store."""
    mar_, folder = (
        mar.verify(tiny_store / f"tiny-{version}.mar"),
        mar.verify(tiny_folders / f"tiny-{version}"),
    )
    assert folder.contents_sha256 == mar_.contents_sha256 == folder.sha256
    assert folder.size == sum(entry.size for entry in mar_.files)
    assert replace(folder, path=mar_.path, sha256=mar_.sha256, size=mar_.size) == mar_
    found = {name: content for name, content in snapshot(folder.path).items() if "__pycache__" not in name}
    assert found == files_in(mar_.path)
    assert sorted(path.name for path in tiny_folders.iterdir()) == ["tiny-1.0", "tiny-2.0"]


def test_a_folder_is_built_once(tiny_folders: Path, model: Path) -> None:
    """The same inputs leave it as it is, others do not replace it."""
    before = {path: path.stat().st_mtime_ns for path in tiny_folders.rglob("*")}
    assert build(load_model(TINY, EAGER), tiny_folders, directory=True).was_there
    change_code(model)
    with pytest.raises(ArchiveExists, match=r"raise `version`"):
        build(load_model(model, EAGER), tiny_folders, directory=True)
    assert {path: path.stat().st_mtime_ns for path in tiny_folders.rglob("*")} == before


def test_a_folder_loads_where_it_lies(tiny_folders: Path) -> None:
    """In this process and in one of its own, and nothing is written into it."""
    before = snapshot(tiny_folders)
    check = check_archive(tiny_folders / "tiny-2.0")
    assert (check.ok, check.path, len(check.golden)) == (True, str(tiny_folders / "tiny-2.0"), 2)
    with Worker.load(tiny_folders / "tiny-2.0") as worker:
        [response] = worker.predict([Request.body((TINY / "golden" / "noise.png").read_bytes())])
    assert response.status == 200
    assert snapshot(tiny_folders) == before


# -- a state dict that was given -----------------------------------------------------------------


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As torch.save(module.state_dict(), …) writes it, its convolution in the order that is fastest."""
    import torch

    path = tmp_path_factory.mktemp("given") / "mine.pth"
    state = load_module(load_model(TINY), Weights("random", 3)).state_dict()
    state["0.weight"] = state["0.weight"].contiguous(memory_format=torch.channels_last)
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def from_given(given: Path) -> tuple[mar.Archive, mar.Archive]:
    """The two forms that were built from it."""
    source, weights = load_model(TINY, EAGER), Weights(str(given))
    built = [build(source, given.parent / "store", weights=weights, directory=d) for d in (False, True)]
    return built[0].archive, built[1].archive


def test_a_given_state_dict_is_packed_as_it_is(from_given: tuple[mar.Archive, ...], given: Path) -> None:
    """Not read and saved again; a copy and no link, since its owner may change it."""
    mar_, folder = from_given
    assert files_in(mar_.path)["model.pth"] == given.read_bytes()
    assert (folder.path / "model.pth").read_bytes() == given.read_bytes()
    assert not (folder.path / "model.pth").is_symlink()
    assert given.stat().st_nlink == 1
    assert mar_.contents_sha256 == folder.contents_sha256
    assert mar.verify(mar_.path) == mar_
    assert mar.verify(folder.path) == folder


def test_it_is_up_to_date_until_the_file_changes(from_given: tuple[mar.Archive, ...], given: Path) -> None:
    """Where the file lies is no matter, what is in it is."""
    moved = Path(shutil.copyfile(given, given.parent / "moved.pth"))
    source = load_model(TINY, EAGER)
    assert build(source, given.parent / "store", weights=Weights(str(moved))).was_there
    moved.write_bytes(moved.read_bytes() + b"\0")
    with pytest.raises(ArchiveExists):
        build(source, given.parent / "store", weights=Weights(str(moved)))


@pytest.mark.parametrize("name", ["missing.pth", ".", "pipe"])
def test_weights_that_cannot_be_read_are_told(
    from_given: tuple[mar.Archive, ...], given: Path, name: str, tmp_path: Path
) -> None:
    """Whether the store has such an archive or not; a pipe that nobody writes to is not waited for."""
    os.mkfifo(tmp_path / "pipe")
    for store in (given.parent / "store", tmp_path / "new"):
        with pytest.raises(WeightsUnavailable, match=r"--weights .*(write `random`|name the file in it)"):
            build(load_model(TINY, EAGER), store, weights=Weights(str(tmp_path / name)))


def test_weights_that_change_during_the_build_are_told(given: Path, tmp_path: Path, temp: Path) -> None:
    """The archive would hold other weights than were checked."""
    mine = Path(shutil.copyfile(given, tmp_path / "mine.pth"))

    def retrain(step: str) -> None:
        if step == "packing":
            mine.write_bytes(mine.read_bytes()[::-1])

    with pytest.raises((ArchiveError, WorkerLoadError), match=r"mine\.pth: it was changed|would not load"):
        build(load_model(TINY, EAGER), tmp_path / "store", weights=Weights(str(mine)), progress=retrain)
    assert snapshot(tmp_path / "store") == {}
    # The cache of torch is its own affair.
    assert [path for path in temp.iterdir() if not path.name.startswith("torchinductor_")] == []


# -- builds that fail ---------------------------------------------------------------------------


def test_a_failing_export_leaves_nothing(model: Path, temp: Path) -> None:
    """Neither in the store nor in the tempdir."""
    (model / "load.py").write_text("def tiny(pretrained=True):\n    return 'no module'\n")
    with pytest.raises(ExportError, match=r"load:tiny returned str, expected a torch\.nn\.Module"):
        build(load_model(model, EAGER), model.parent / "store")
    assert snapshot(model.parent / "store") == {}
    # The cache of torch is its own affair.
    assert [path for path in temp.iterdir() if not path.name.startswith("torchinductor_")] == []


def test_a_handler_that_cannot_load_is_not_put_in_the_store(model: Path, temp: Path) -> None:
    """Export and parity are fine; in a worker the model's own code is not."""
    code = "import sys\nif 'pytest' not in sys.modules:\n    raise RuntimeError('only in tests')\n"
    (model / "load.py").write_text(code + (model / "load.py").read_text())
    with pytest.raises(WorkerLoadError, match="only in tests") as caught:
        build(load_model(model, EAGER), model.parent / "store")
    assert "Traceback" in caught.value.details
    assert snapshot(model.parent / "store") == {}
    # The cache of torch is its own affair.
    assert [path for path in temp.iterdir() if not path.name.startswith("torchinductor_")] == []


def test_labels_that_do_not_fit_are_told_before_it_is_packed(model: Path, temp: Path) -> None:
    """Nine for ten classes."""
    (model / "labels.txt").write_text("\n".join("abcdefghi") + "\n")
    with pytest.raises(ExportError, match=r"10 classes, `labels: labels.txt` names 9"):
        build(load_model(model, EAGER), model.parent / "store")


@pytest.mark.parametrize("directory", [False, True])
def test_an_archive_that_appears_during_the_build_is_not_overwritten(
    model: Path, temp: Path, directory: bool
) -> None:
    """Someone else built the same version meanwhile: theirs stays, ours is gone."""
    store = model.parent / "store"
    name = "tiny-1.0" if directory else "tiny-1.0.mar"

    def another_build(step: str) -> None:
        if step == "loading it in a worker":
            (store / name).write_text("another")

    with pytest.raises(ArchiveExists, match="is there already"):
        build(load_model(model, EAGER), store, directory=directory, progress=another_build)
    assert {path: content for path, content in snapshot(store).items() if path == name} == {name: b"another"}
    assert len(list(store.iterdir())) == 1
    # The cache of torch is its own affair.
    assert [path for path in temp.iterdir() if not path.name.startswith("torchinductor_")] == []


def test_the_same_archive_that_appears_during_the_build_is_taken(tiny_onnx: Path, tmp_path: Path) -> None:
    """Two builds of the same inputs: whoever comes second finds what it would have put there."""

    def another_build(step: str) -> None:
        if step == "loading it in a worker":
            shutil.copyfile(tiny_onnx, tmp_path / "store" / tiny_onnx.name)

    built = build(load_model(TINY, ONNX), tmp_path / "store", progress=another_build)
    assert built.was_there
    assert built.archive.sha256 == mar.read(tiny_onnx).sha256
