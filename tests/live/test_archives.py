"""What TorchServe makes of archives that torchmar refuses, and of those that it takes."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.unit.test_manifest import DIES, FAULTS, HANDLER, REFUSED, TAKEN, UNREAD, Odd
from tests.unit.zips import Piece, written
from torchmar import mar
from torchmar.errors import ArchiveCorrupt, ArchiveError, BadAnswer, WorkersNotReady

from .servers import STAND_IN, Live

SHOWN = HANDLER.replace("ok", "shown").encode()
OTHER = HANDLER.replace("ok", "other").encode()


def stood_in(odd: Odd) -> Odd:
    """The same, with what lets its worker start without torch."""
    files = {**odd.files, **{name: content.decode() for name, content in STAND_IN.items()}}
    return Odd(odd.top, odd.model, odd.raw, odd.config, files)


@contextmanager
def registered(server: Live, archives: dict[str, Path], workers: int = 1) -> Iterator[None]:
    """All of them at once, by the names of their models; none is left of them."""
    try:
        for path in archives.values():
            server.management.register(path.name, initial_workers=workers)
        yield
    finally:
        for name in archives:
            for version in server.management.versions(name):
                server.management.unregister(name, version.version)


def write(server: Live, odds: dict[str, Odd], prefix: str) -> dict[str, Path]:
    """Each in the store, by the name of its model."""
    names = {f"{prefix}{number}": odd for number, odd in enumerate(odds.values())}
    return {name: stood_in(odd).write(server.store / f"{name}.mar", name) for name, odd in names.items()}


def kinds(what: str) -> dict[str, Odd]:
    return {kind: odd for kind, (odd, does, _) in FAULTS.items() if does == what}


def test_what_is_said_to_be_refused_is_refused(server: Live) -> None:
    """When it is registered."""
    taken = []
    for kind, path in zip(kinds(REFUSED), write(server, kinds(REFUSED), "refused").values(), strict=True):
        with suppress(BadAnswer):
            server.management.register(path.name, initial_workers=0)
            taken.append(kind)
    assert taken == []


def test_what_is_said_to_end_a_worker_does(server: Live) -> None:
    """TorchServe takes it, and its worker dies when it loads, each time it is started."""
    archives, served = write(server, kinds(DIES), "dies"), []
    with registered(server, archives):
        for kind, name in zip(kinds(DIES), archives, strict=True):
            with suppress(WorkersNotReady):
                server.management.wait_until_ready(name, "1.0", timeout=60)
                served.append(kind)
    assert served == []


def test_what_is_said_to_be_left_unread_is(server: Live) -> None:
    """A configuration that is nested too deep: a batchSize of 3 becomes 1."""
    archives = write(server, kinds(UNREAD), "unread")
    with registered(server, archives, workers=0):
        for kind, name in zip(kinds(UNREAD), archives, strict=True):
            assert server.management.describe(name, "1.0").batch_size == 1, kind


def test_what_is_said_to_be_taken_is_served(server: Live) -> None:
    """With its configuration, where it has one."""
    archives = write(server, TAKEN, "taken")
    with registered(server, archives):
        for (kind, odd), name in zip(TAKEN.items(), archives, strict=True):
            described = server.management.wait_until_ready(name, "1.0", timeout=60)
            assert described.batch_size == (1 if odd.config is None else 3), kind
            assert server.inference.predict(name, b"x").content == b"ok", kind


def test_another_handler_than_is_shown_would_be_served(server: Live) -> None:
    """A zip that Python's own library finds sound, with the handler that it shows; another one runs."""
    hidden = Piece("handler.py", OTHER)
    inside = hidden.local_header() + OTHER
    odd = Odd(model={"handler": "handler.py"})
    pieces = [Piece(mar.MANIFEST, odd.manifest("twofaced")), Piece("handler.py", SHOWN)]
    pieces += [Piece(name, content) for name, content in STAND_IN.items()]
    pieces.append(Piece("notes.txt", inside, local={"stored": 0, "size": 0, "crc32": 0}))
    path = server.store / "twofaced.mar"
    path.write_bytes(written(pieces))
    with pytest.raises(ArchiveCorrupt, match="which TorchServe would serve"):
        mar.read(path)
    with registered(server, {"twofaced": path}):
        server.management.wait_until_ready("twofaced", "1.0", timeout=60)
        assert server.inference.predict("twofaced", b"x").content == b"other"


def test_a_folder_of_nothing_but_a_folder_would_be_served_as_that(server: Live) -> None:
    """The folder form of the same: another manifest, another handler."""
    path = server.store / "outer"
    for name, content in {
        "MAR-INF/MANIFEST.json": Odd(model={"handler": "image_classifier"}).manifest("outer")
    }.items():
        (path / name).parent.mkdir(parents=True)
        (path / name).write_bytes(content)
    inner = {mar.MANIFEST: Odd().manifest("inner"), "h.py": OTHER, **STAND_IN}
    for name, content in inner.items():
        (path / "MAR-INF" / name).parent.mkdir(parents=True, exist_ok=True)
        (path / "MAR-INF" / name).write_bytes(content)
    with pytest.raises(ArchiveCorrupt, match="TorchServe serves that one instead"):
        mar.read(path)
    with registered(server, {"inner": path}):
        server.management.wait_until_ready("inner", "1.0", timeout=60)
        assert server.inference.predict("inner", b"x").content == b"other"


def test_a_tar_is_served_and_refused_here(server: Live, tmp_path: Path) -> None:
    """As torch-model-archiver --archive-format tgz writes it; what is unpacked of it is read."""
    (tmp_path / "h.py").write_bytes(SHOWN)
    command = [sys.executable, "-m", "model_archiver.model_packaging", "--model-name", "tarred"]
    command += ["--version", "1.0", "--handler", str(tmp_path / "h.py"), "--export-path", str(server.store)]
    (tmp_path / "temp").mkdir()
    command += ["--archive-format", "tgz"]
    subprocess.run(command, check=True, env={"TMPDIR": str(tmp_path / "temp")}, timeout=60)
    path = server.store / "tarred.tar.gz"
    with pytest.raises(ArchiveError, match="which TorchServe serves and torchmar does not read"):
        mar.read(path)
    with registered(server, {"tarred": path}):
        server.management.wait_until_ready("tarred", "1.0", timeout=120)
        assert server.inference.predict("tarred", b"x").content == b"shown"
    with tarfile.open(path) as tar:
        tar.extractall(tmp_path, filter="data")
    assert mar.verify(tmp_path / "tarred").name == "tarred"
    shutil.copyfile(path, server.store / "tarred.mar")
    with pytest.raises(BadAnswer):
        server.management.register("tarred.mar")
