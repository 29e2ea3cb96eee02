"""Reading a .mar: TorchServe's reader can see nothing else, whatever the bytes are."""

from __future__ import annotations

import io
import os
import shutil
import stat
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchmar import mar, pack
from torchmar.errors import ArchiveCorrupt, ArchiveError
from torchmar.unpack import PYCACHE, opened

from .nested import nest
from .zips import (
    DEFLATED,
    IN_PARTS,
    LIMIT,
    UTF8,
    JavaRefuses,
    Piece,
    as_java,
    deflated,
    descriptor,
    end_record,
    written,
    zip64,
)

SHOWN = b"def handle(data, context):\n    return data\n"
OTHER = b"def handle(data, context):\n    return ['another one' for _ in data]\n"
MANIFEST = b'{"runtime": "python", "model": {"modelName": "m", "handler": "handler.py"}}'


def seen(path: Path) -> dict[str, bytes]:
    """Every file that torchmar sees in an archive."""
    with opened(path) as contents:
        return {name: b"".join(contents.blocks(name)) for name in contents.sizes}


def java_sees(raw: bytes, *, newer: bool = False) -> dict[str, bytes]:
    """What lies in the folder after TorchServe has unpacked it, by an independent reader."""
    return {name: content for name, content in as_java(raw, newer=newer) if not name.endswith("/")}


def put(path: Path, raw: bytes) -> Path:
    path.write_bytes(raw)
    return path


# -- what is read ---------------------------------------------------------------------------------


class Pipe(io.RawIOBase):
    """What cannot be written to a second time."""

    def __init__(self) -> None:
        self.content = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.content += bytes(data)
        return len(data)


FILES = {
    "MAR-INF/MANIFEST.json": MANIFEST,
    "handler.py": SHOWN,
    "empty": b"",
    "sub/grüße.txt": b"\xff" * 9,
}


def by_python(method: int, *, pipe: bool = False, large: bool = False) -> bytes:
    """As torch-model-archiver writes it, which uses zipfile."""
    sink: Any = Pipe() if pipe else io.BytesIO()
    with zipfile.ZipFile(sink, "w", method) as archive:
        for name, content in FILES.items():
            with archive.open(name, "w", force_zip64=large) as file:
                file.write(content)
    return bytes(sink.content if pipe else sink.getvalue())


UNIX = bytes.fromhex("5554090003bb060a6bbb060a6b75780b000104000000000400000000")  # times and owner
UNIX_LISTED = bytes.fromhex("5554050003bb060a6b75780b000104000000000400000000")


def like_info_zip() -> bytes:
    """As `zip -9` writes: folders, times and owners, what would not deflate, UTF-8 that is not told."""
    extra: dict[str, Any] = {"local_extra": UNIX, "central_extra": UNIX_LISTED}
    folder = Piece("sub/", central={"external": 0o40755 << 16 | 0x10}, **extra)
    files = [Piece(name, content, DEFLATED, 2, **extra) for name, content in FILES.items()]
    return written([folder, *files, Piece("short", b"x", 0, 2, **extra)])


def like_jar() -> bytes:
    """As `jar` writes: all in parts, folders deflated, a mark in the first entry, no system."""
    mark: dict[str, Any] = {"local_extra": b"\xfe\xca\0\0", "central_extra": b"\xfe\xca\0\0"}
    plain: dict[str, Any] = {"central": {"made_by": 20, "external": 0}}
    folder = Piece("META-INF/", b"", DEFLATED, IN_PARTS | UTF8, **plain, **mark)
    files = [Piece(name, content, DEFLATED, IN_PARTS | UTF8, **plain) for name, content in FILES.items()]
    return written([folder, *files, Piece("stored", b"", 0, UTF8, **plain)])


def without_signatures() -> bytes:
    """In parts, where what follows the data begins with the checksum."""
    pieces = [Piece(name, content, DEFLATED, IN_PARTS) for name, content in FILES.items()]
    for piece in pieces:
        piece.descriptor = descriptor(piece, signature=False)
    return written(pieces)


def sizes_told_twice() -> bytes:
    """In parts, and the header tells them all the same."""
    pieces = [Piece(name, content, DEFLATED, IN_PARTS) for name, content in FILES.items()]
    return written([Piece(p.name, p.content, p.method, p.flags, local=p.fields()) for p in pieces])


def zip64_without_need() -> bytes:
    """As `zip -fz` writes: sizes and the end of the directory in zip64's fields."""
    pieces = []
    for name, content in FILES.items():
        size = len(content)
        large = {"needed": 45, "stored": LIMIT, "size": LIMIT}
        listed = {"needed": 45, "size": LIMIT}
        piece = Piece(name, content, local=large, central=listed)
        piece.local_extra, piece.central_extra = zip64(size, size), zip64(size)
        pieces.append(piece)
    raw = written(pieces, end=b"")
    directory = raw.index(b"PK\1\2")
    numbers = len(pieces), len(pieces), len(raw) - directory, directory
    end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 0x031E, 45, 0, 0, *numbers)
    end += struct.pack("<4sLQL", b"PK\6\7", 0, len(raw), 1)
    return raw + end + end_record(len(pieces), len(raw) - directory, LIMIT)


SOUND: dict[str, Callable[[], bytes]] = {
    "zip-store": lambda: by_python(zipfile.ZIP_STORED),
    "default": lambda: by_python(zipfile.ZIP_DEFLATED),
    "pipe": lambda: by_python(zipfile.ZIP_DEFLATED, pipe=True),
    "zip64": lambda: by_python(zipfile.ZIP_DEFLATED, large=True),
    "info-zip": like_info_zip,
    "jar": like_jar,
    "no-signatures": without_signatures,
    "told-twice": sizes_told_twice,
    "zip64-end": zip64_without_need,
    "empty": lambda: written([]),
}


@pytest.mark.parametrize("kind", SOUND)
def test_what_others_write_is_read_as_java_reads_it(tmp_path: Path, kind: str) -> None:
    """Every form that stock tools write; the same files, of the same bytes."""
    raw = SOUND[kind]()
    found = seen(put(tmp_path / "a.mar", raw))
    assert found == java_sees(raw) == java_sees(raw, newer=True)
    assert {name: found[name] for name in FILES if found} == (FILES if found else {})
    with zipfile.ZipFile(tmp_path / "a.mar") as archive:
        assert archive.testzip() is None


def packed_by_stock(folder: Path, how: str) -> Path:
    """A model called `m`, by torch-model-archiver's own command line; where it lies."""
    (folder / "handler.py").write_bytes(SHOWN)
    (folder / "temp").mkdir()  # it makes, and first removes, <temporary folder>/<model name>
    command = [sys.executable, "-m", "model_archiver.model_packaging", "--model-name", "m"]
    command += ["--version", "1.0", "--handler", str(folder / "handler.py"), "--export-path", str(folder)]
    command += ["--archive-format", how]
    subprocess.run(command, check=True, env={"TMPDIR": str(folder / "temp")}, timeout=60)
    return folder / ("m.tar.gz" if how == "tgz" else "m" if how == "no-archive" else "m.mar")


@pytest.mark.parametrize("how", ["default", "zip-store", "no-archive"])
def test_what_torch_model_archiver_writes_is_read(tmp_path: Path, how: str) -> None:
    """In every format but one."""
    path = packed_by_stock(tmp_path, how)
    found = seen(path)
    assert found.keys() == {"handler.py", "MAR-INF/MANIFEST.json"}
    assert found["handler.py"] == SHOWN
    assert path.is_dir() or found == java_sees(path.read_bytes())
    assert mar.verify(path).name == "m"


TOOLS = {
    "zip": ["zip", "-q", "-r", "a.mar", "."],
    "zip -0": ["zip", "-q", "-0", "-r", "a.mar", "."],
    "zip -9": ["zip", "-q", "-9", "-r", "a.mar", "."],
    "zip -fz": ["zip", "-q", "-fz", "-r", "a.mar", "."],
    "jar": ["jar", "cfM", "a.mar", "MAR-INF", "handler.py", "empty", "sub"],
    "jar -0": ["jar", "-c", "-0", "-M", "-f", "a.mar", "MAR-INF", "handler.py", "empty", "sub"],
    "jar with its own": ["jar", "cf", "a.mar", "MAR-INF", "handler.py", "empty", "sub"],
}


@pytest.mark.parametrize("tool", TOOLS)
def test_what_other_programs_write_is_read(tmp_path: Path, tool: str) -> None:
    """`zip` and `jar`, where this machine has them."""
    if shutil.which(TOOLS[tool][0]) is None:
        pytest.skip(f"{TOOLS[tool][0]} is not installed")
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    subprocess.run(TOOLS[tool], cwd=tmp_path, check=True, timeout=60)
    found = seen(tmp_path / "a.mar")
    assert found == java_sees((tmp_path / "a.mar").read_bytes())
    assert {name: found[name] for name in FILES} == FILES


def sparse(path: Path, piece: Piece, size: int) -> Path:
    """A zip with one entry of so many bytes, of which none is on disk."""
    header = piece.local_header()
    with path.open("wb") as file:
        file.write(header)
        file.seek(len(header) + size)
        end = piece.after() + piece.central_header(0)
        file.write(end)
        directory = len(header) + size + len(piece.after())
        numbers = 1, 1, len(piece.central_header(0)), directory
        record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, *numbers)
        record += struct.pack("<4sLQL", b"PK\6\7", 0, len(header) + size + len(end), 1)
        file.write(record + end_record(1, len(piece.central_header(0)), LIMIT))
    return path


def test_sizes_that_need_64_bits(tmp_path: Path) -> None:
    """More than 4 GiB, stored with their sizes before or, deflated, behind them: all must agree."""
    size = 5 * 2**30
    listed = {"needed": 45, "stored": LIMIT, "size": LIMIT, "crc32": 7}
    before = Piece("w", local=listed, central=listed, local_extra=zip64(size, size))
    before.central_extra = zip64(size, size)
    with opened(sparse(tmp_path / "before.mar", before, size)) as contents:
        assert contents.sizes == {"w": size}
    behind = Piece("w", b"", DEFLATED, IN_PARTS, central=listed, central_extra=zip64(size + 1, size))
    for signature in (b"PK\7\x08", b""):
        behind.descriptor = signature + struct.pack("<LQQ", 7, size, size + 1)
        for local, extra in (({}, b""), ({"stored": LIMIT, "size": LIMIT}, zip64(0, 0))):
            behind.local, behind.local_extra = local, extra
            with opened(sparse(tmp_path / "behind.mar", behind, size)) as contents:
                assert contents.sizes == {"w": size + 1}
    behind.descriptor = struct.pack("<LQQ", 7, size, size)
    before.local_extra = zip64(size, size - 1)
    for piece in (before, behind):
        with (
            pytest.raises(ArchiveCorrupt, match="and its local header"),
            opened(sparse(tmp_path / "wrong.mar", piece, size)),
        ):
            pass


# -- what is refused ------------------------------------------------------------------------------


def archive(*pieces: Piece, **how: Any) -> bytes:
    """A manifest and something else."""
    return written([Piece("MAR-INF/MANIFEST.json", MANIFEST), *pieces], **how)


def inside(name: str, content: bytes) -> bytes:
    """A local header and its data, as they may lie in the data of another entry."""
    return Piece(name, content).local_header() + content


def hidden_by_size() -> bytes:
    """Stored; the directory shows all of it, the header has size 0: Java goes on to what lies in it."""
    data = inside("handler.py", OTHER)
    wrong = {"stored": 0, "size": 0, "crc32": 0}
    return archive(Piece("handler.py", SHOWN), Piece("notes.txt", data, local=wrong))


def hidden_behind_a_stream() -> bytes:
    """Deflated in parts; the directory's size reaches over the stream's end and what follows it there."""
    piece = Piece("notes.txt", b"x" * 9, DEFLATED, IN_PARTS)
    data = piece.stored() + descriptor(piece) + inside("handler.py", OTHER)
    piece.data, piece.central = data, {"stored": len(data)}
    piece.descriptor = struct.pack("<4sLLL", b"PK\7\x08", zlib.crc32(piece.content), len(data), 9)
    return archive(Piece("handler.py", SHOWN), piece)


def deflated_here_stored_there() -> bytes:
    """The header says that it is stored, the directory that it is deflated."""
    raw = deflated(SHOWN)
    local = {"method": 0, "size": len(raw), "crc32": zlib.crc32(raw)}
    return archive(Piece("handler.py", SHOWN, DEFLATED, local=local))


def local_zip64() -> bytes:
    """The header's sizes are in zip64's field, where Java looks for them."""
    data = inside("handler.py", OTHER)
    wrong = {"stored": LIMIT, "size": LIMIT, "crc32": 0}
    return archive(Piece("handler.py", SHOWN), Piece("n.txt", data, local=wrong, local_extra=zip64(0, 0)))


def central_zip64() -> bytes:
    """The directory's sizes are in zip64's field, and other ones."""
    piece = Piece("handler.py", SHOWN, central={"stored": LIMIT, "size": LIMIT})
    return archive(Piece(piece.name, SHOWN, central=piece.central, central_extra=zip64(3, 3)))


def unfinished_stream() -> bytes:
    """A deflate stream without an end: Java takes what comes next for more of it."""
    data = deflated(SHOWN)[:-2]
    stored = {"stored": len(data)}
    return archive(Piece("handler.py", SHOWN, DEFLATED, data=data, local=stored, central=stored))


def folder_with_a_stream_of_no_bytes() -> bytes:
    """Deflated in no bytes: Java inflates what follows."""
    none = {"stored": 0}
    folder = Piece("sub/", b"", DEFLATED, data=b"", local=none, central=none)
    return archive(folder, Piece("handler.py", SHOWN))


def small_in_64_bits() -> bytes:
    """Java 17 takes the sizes for 32 bits, newer versions for 64."""
    piece = Piece(
        "empty", b"", DEFLATED, IN_PARTS, local={"stored": LIMIT, "size": LIMIT}, local_extra=zip64(0, 0)
    )
    piece.descriptor = descriptor(piece, large=True)
    return archive(piece, Piece("handler.py", SHOWN))


def checksum_that_looks_like_a_signature() -> bytes:
    """Without its signature Java takes the checksum for one."""
    content = bytes.fromhex("ac0a7ad5")  # whose CRC-32 is 0x08074b50
    assert zlib.crc32(content) == 0x08074B50
    piece = Piece("w", content, DEFLATED, IN_PARTS)
    piece.descriptor = descriptor(piece, signature=False)
    return archive(piece)


def unlisted_first() -> bytes:
    """An entry before the first one that is listed."""
    return archive(Piece("handler.py", SHOWN), before=inside("sitecustomize.py", OTHER))


def bits(**changes: int) -> Callable[[], bytes]:
    """The same in both headers, as a sound zip of another kind would have it."""
    return lambda: archive(
        Piece("handler.py", SHOWN, changes.get("method", 0), local=changes, central=changes)
    )


def listed(**changes: int) -> Callable[[], bytes]:
    """In the directory alone."""
    return lambda: archive(Piece("handler.py", SHOWN, central=changes))


def local(**changes: int) -> Callable[[], bytes]:
    """In the local header alone."""
    return lambda: archive(Piece("handler.py", SHOWN, local=changes))


def extra(field: bytes) -> Callable[[], bytes]:
    """An extra field in both headers."""
    return lambda: archive(Piece("handler.py", SHOWN, local_extra=field, central_extra=field))


def named(*names: str | bytes) -> Callable[[], bytes]:
    """Files, or folders, of these names."""
    return lambda: archive(*(Piece(name, b"" if name[-1:] in ("/", b"/") else SHOWN) for name in names))


def ended(**changes: Any) -> Callable[[], bytes]:
    """Another end record."""

    def make() -> bytes:
        raw = archive(Piece("handler.py", SHOWN), end=b"")
        start = raw.index(b"PK\1\2")
        numbers = {"count": 2, "size": len(raw) - start, "offset": start}
        return raw + end_record(**{**numbers, **changes})

    return make


def other_zip64_end(**changes: int) -> Callable[[], bytes]:
    """zip64's record says something else than the end record."""

    def make() -> bytes:
        raw = bytearray(zip64_without_need())
        where = {"length": 4, "needed": 14, "disk": 16, "here": 24, "total": 32, "size": 40, "offset": 48}
        record = raw.index(b"PK\6\6")
        for name, value in changes.items():
            raw[record + where[name]] = value
        return bytes(raw)

    return make


ALIKE = "can be taken for"
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "hidden by size": (hidden_by_size, "and its local header"),
    "hidden behind a stream": (hidden_behind_a_stream, "do not end where they should"),
    "deflated here, stored there": (deflated_here_stored_there, "and its local header"),
    "zip64 in the header": (local_zip64, "and its local header"),
    "zip64 in the directory": (central_zip64, "and its local header"),
    "zip64 without need": (extra(zip64()), "zip64 field that is not true"),
    "zip64 of other numbers": (extra(zip64(42, 42)), "zip64 field that is not true"),
    "zip64 without need in the header": (
        lambda: archive(Piece("w", SHOWN, local_extra=zip64(len(SHOWN), len(SHOWN)))),
        "and its local header",
    ),
    "half of zip64 in the header": (
        lambda: archive(Piece("w", SHOWN, local={"size": LIMIT}, local_extra=zip64(len(SHOWN)))),
        "and its local header",
    ),
    "unfinished stream": (unfinished_stream, "do not end where they should|damaged"),
    "folder with no stream": (folder_with_a_stream_of_no_bytes, "do not end where they should"),
    "small sizes of 64 bits": (small_in_64_bits, "not every Java reads"),
    "checksum like a signature": (checksum_that_looks_like_a_signature, "and its local header"),
    "unlisted first": (unlisted_first, "does not list"),
    "unlisted between": (lambda: archive(Piece("x", b"1", listed=False), Piece("y", b"2")), "does not list"),
    "unlisted last": (lambda: archive(Piece("x", b"1", listed=False)), "does not list"),
    "gap before the directory": (lambda: archive(gap=b"\0"), "does not list"),
    "bytes before": (lambda: archive(before=b"#!/bin/sh\n"), "does not list"),
    "bytes after": (lambda: archive(tail=b"\0"), "after its end"),
    "another zip after": (lambda: archive() + archive(), "does not list|not true"),
    "a comment": (ended(comment=b"hello"), "after its end"),
    "a comment that is an end": (ended(comment=end_record(0, 0, 0)), "not true|after its end"),
    "a signature after the directory": (
        lambda: archive(end=b"PK\5\5\0\0" + end_record(1, len(archive(end=b"")) - 1, 0)),
        "not true",
    ),
    "more entries told": (ended(count=3), "fewer entries"),
    "fewer entries told": (ended(count=1), "more entries"),
    "entries on another disk": (ended(here=1), "not true"),
    "another place told": (ended(offset=1), "not true"),
    "zip64 promised": (ended(offset=LIMIT), "lacks the zip64 record"),
    "zip64 end: length": (other_zip64_end(length=45), "zip64 record"),
    "zip64 end: needed": (other_zip64_end(needed=46), "zip64 record"),
    "zip64 end: disk": (other_zip64_end(disk=1), "zip64 record"),
    "zip64 end: here": (other_zip64_end(here=1), "zip64 record"),
    "zip64 end: total": (other_zip64_end(total=1), "zip64 record"),
    "zip64 end: size": (other_zip64_end(size=1), "zip64 record"),
    "zip64 end: offset": (other_zip64_end(offset=1), "not true"),
    "bzip2": (lambda: by_python(zipfile.ZIP_BZIP2), "method 12, which TorchServe cannot unpack"),
    "lzma": (lambda: by_python(zipfile.ZIP_LZMA), "method 14, which TorchServe cannot unpack"),
    "deflate64": (bits(method=9, needed=21), "method 9"),
    "encrypted": (bits(flags=1), "is encrypted"),
    "strong encryption": (bits(flags=0x40), "does not read"),
    "patched": (bits(flags=0x20), "does not read"),
    "masked headers": (bits(flags=0x2000), "does not read"),
    "version": (bits(needed=62), "does not read"),
    "stored in parts": (lambda: by_python(zipfile.ZIP_STORED, pipe=True), "does not read"),
    "two sizes": (bits(size=3), "has two sizes"),
    "checksum": (bits(crc32=3), "is damaged"),
    "local version": (local(needed=62), "does not read"),
    "local flags": (local(flags=UTF8), "and its local header"),
    "local checksum": (local(crc32=3), "and its local header"),
    "local checksum of 0": (local(crc32=0), "and its local header"),
    "local time": (local(time=1), "and its local header"),
    "local date": (local(date=34), "and its local header"),
    "local name": (lambda: archive(Piece("a.py", SHOWN, local_name=b"b.py")), "and its local header"),
    "a shorter name": (lambda: archive(Piece("a.py", SHOWN, local_name=b"a.p")), "and its local header"),
    "another disk": (listed(disk=1), "another disk"),
    "comment of an entry": (lambda: archive(Piece("h.py", SHOWN, comment=b"x")), "comment"),
    "symbolic link": (listed(external=0o120777 << 16), "neither a file nor a folder"),
    "device": (listed(external=0o020644 << 16), "neither a file nor a folder"),
    "folder by its attributes": (listed(external=0o40755 << 16), "neither a file nor a folder"),
    "folder with data": (lambda: archive(Piece("sub/", SHOWN, central={"external": 0})), "folder with data"),
    "Unicode path": (
        extra(struct.pack("<HHBL", 0x7075, 9, 1, zlib.crc32(b"handler.py")) + b"z.py"),
        "0x7075",
    ),
    "Unicode comment": (extra(b"\x75\x63\1\0\1"), "0x6375"),
    "AES": (extra(b"\1\x99\1\0\1"), "0x9901"),
    "field that is cut off": (extra(b"\xfe\xca\2\0\1"), "0xcafe"),
    "field without a header": (extra(b"\0\0"), "reads alike"),
    "field twice": (extra(b"\xfe\xca\0\0" * 2), "0xcafe"),
    "alignment with data": (extra(b"\x35\xd9\3\0\0\x10\1"), "0xd935"),
    "times without times": (extra(b"\x55\x54\0\0"), "0x5455"),
    # names
    "absolute": (named("/etc/x"), "leads out"),
    "out": (named("../x"), "leads out"),
    "out and in": (named("a/../../x"), "leads out"),
    "backslash": (named("a\\b"), "leads out"),
    "drive": (named("C:/x"), "leads out"),
    "dot": (named("x", "./x"), "several ways"),
    "dot inside": (named("a/./x"), "several ways"),
    "two slashes": (named("a//b"), "several ways"),
    "two slashes at the end": (named("a//"), "several ways"),
    "no name": (named(b""), "several ways"),
    "NUL": (named("handler.py\0.txt"), "not shown"),
    "line end": (named("a\nb"), "not shown"),
    "escape": (named("a\x1b[2Jb"), "not shown"),
    "right to left": (named("a\u202eyp.b"), "not shown"),
    "no width": (named("handler\u200b.py"), "not shown"),
    "latin-1": (named(b"gr\xfc\xdfe.py"), "not UTF-8"),
    "surrogate": (named(b"a\xed\xa0\x80.py"), "not UTF-8"),
    "twice": (named("x", "x"), "more than once"),
    "folder twice": (named("x/", "x/"), "more than once"),
    "file and folder": (named("x", "x/"), ALIKE),
    "file and a folder's file": (named("x", "x/y"), ALIKE),
    "a folder's file and file": (named("x/y", "x"), ALIKE),
    "case": (named("handler.py", "Handler.py"), ALIKE),
    "case of a folder": (named("a/x", "A/y"), ALIKE),
    "file and folder by case": (named("X", "x/y"), ALIKE),
    "sharp s": (named("straße", "STRASSE"), ALIKE),
    "normal form": (named("caf\u00e9.py", "cafe\u0301.py"), ALIKE),
    "compatible form": (named("file.py", "ﬁle.py"), ALIKE),
    "deep": (named("/".join(["d"] * 1_500)), "folders deep"),
    "long": (named("x" * 256), "longer than filesystems"),
    "long in all": (named("/".join(["x" * 100] * 11)), "longer than filesystems"),
    # code that wins over what is shown
    "bytecode": (named("handler.py", "__pycache__/handler.cpython-311.pyc"), "instead of 'handler.py'"),
    "optimised": (
        named("handler.py", "__pycache__/handler.cpython-312.opt-2.pyc"),
        "instead of 'handler.py'",
    ),
    "bytecode in a folder": (named("p/a.py", "p/__pycache__/a.cpython-310.pyc"), "instead of 'p/a.py'"),
    "library": (named("handler.py", "handler.so"), "instead of 'handler.py'"),
    "library of a version": (named("p/a.py", "p/a.cpython-311-x86_64-linux-gnu.so"), "instead of 'p/a.py'"),
    "library on Windows": (named("handler.py", "handler.cp311-win_amd64.pyd"), "instead of 'handler.py'"),
    "package": (named("handler.py", "handler/__init__.py"), "instead of 'handler.py'"),
    "package of bytecode": (named("handler.py", "handler/__init__.pyc"), "instead of 'handler.py'"),
    "package of a library": (named("handler.py", "handler/__init__.abi3.so"), "instead of 'handler.py'"),
    "library as a package": (named("p/__init__.py", "p/__init__.so"), "instead of 'p/__init__.py'"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_can_be_read_in_two_ways_is_refused(tmp_path: Path, kind: str) -> None:
    """With the file, and what is wrong with it, in one line that a terminal can show."""
    make, message = REFUSED[kind]
    path = put(tmp_path / "a.mar", make())
    with pytest.raises(ArchiveCorrupt, match=message) as caught:
        seen(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()
    with pytest.raises(ArchiveCorrupt):
        mar.extract(path, tmp_path / "out")


TWO_FACED = {
    "hidden by size": hidden_by_size,
    "hidden behind a stream": hidden_behind_a_stream,
    "zip64 in the header": local_zip64,
}


@pytest.mark.parametrize("kind", TWO_FACED)
def test_java_would_have_served_another_handler(tmp_path: Path, kind: str) -> None:
    """Why it matters: for Python these are sound zips with the handler that it shows."""
    raw = TWO_FACED[kind]()
    with zipfile.ZipFile(put(tmp_path / "a.mar", raw)) as shown:
        assert shown.read("handler.py") == SHOWN
    assert java_sees(raw)["handler.py"] == OTHER


@pytest.mark.parametrize(
    "names", [("a.py", "a.pyc"), ("a.py", "a/b.py"), ("_a.so", "a.py"), ("a/__init__.py", "a/a.py")]
)
def test_what_python_does_not_prefer_is_read(tmp_path: Path, names: tuple[str, str]) -> None:
    """Bytecode beside its source, a folder that is no package, a library of another name."""
    assert set(names) < seen(put(tmp_path / "a.mar", named(*names)())).keys()


def test_python_prefers_what_is_refused(tmp_path: Path) -> None:
    """The rules are those of this Python: what is shown is not what is imported."""
    import importlib.machinery
    import importlib.util
    import py_compile

    folder = tmp_path / "m"
    (folder / "__pycache__").mkdir(parents=True)
    (folder / "a.py").write_text("VALUE = 'hidden'")
    cached = importlib.util.cache_from_source(str(folder / "a.py"))
    py_compile.compile(
        str(folder / "a.py"), cached, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    (folder / "a.py").write_text("VALUE = 'shown'")
    code = "import a; print(a.VALUE)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stdout == "hidden\n"
    (folder / "b.py").touch()
    for winner in (f"b{importlib.machinery.EXTENSION_SUFFIXES[0]}", "b/__init__.py"):
        (folder / winner).parent.mkdir(exist_ok=True)
        (folder / winner).touch()
        spec = importlib.machinery.PathFinder.find_spec("b", [str(folder)])
        assert spec is not None
        assert spec.origin == str(folder / winner)
        with pytest.raises(ArchiveCorrupt, match="instead of"):
            mar.read(folder)
        if winner.endswith(".so"):
            (folder / winner).unlink()


# -- any bytes ------------------------------------------------------------------------------------


def harmless(raw: bytes) -> dict[int, int]:
    """Which bits of an archive no reader unpacks by: by the place of a byte, a mask.

    In the directory: by which program and system an entry was made; its attributes, of which its kind may be
    told or not; times and owners in extra fields. In zip64's record: the program. In a header before data
    that checksum and sizes follow: whether it tells them, too. In a deflate stream: what comes to the same,
    as matches at another distance and the rest of the last byte.
    """
    found: dict[int, int] = {}

    def free(place: int, length: int, mask: int = 0xFF) -> None:
        found.update(dict.fromkeys(range(place, place + length), mask))

    def free_times(place: int, length: int) -> None:
        end = place + length
        while place < end:
            kind, size = struct.unpack("<HH", raw[place : place + 4])
            if kind in (0x5455, 0x7875):
                free(place + 4, size)
            place += 4 + size

    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        at = archive.start_dir
        for info in archive.infolist():
            name, extra, *_ = struct.unpack("<3H", raw[at + 28 : at + 34])
            free(at + 4, 2)
            free(at + 36, 2)
            free(at + 38, 3)
            kind = stat.S_IFDIR if info.is_dir() else stat.S_IFREG
            free(at + 41, 1, kind >> 8 | 0x0F)
            free_times(at + 46 + name, extra)
            at += 46 + name + extra
            here = info.header_offset
            name, extra = struct.unpack("<2H", raw[here + 26 : here + 30])
            free_times(here + 30 + name, extra)
            if info.flag_bits & IN_PARTS:
                free(here + 14, 12)
            if info.compress_type == DEFLATED:
                free(here + 30 + name + extra, info.compress_size)
    if raw[at : at + 4] == b"PK\6\6":
        free(at + 12, 2)
    return found


def flipped(path: Path) -> Iterator[tuple[int, int, dict[str, bytes]]]:
    """Each bit of an archive whose flip is not refused: byte, bit, and the files, while it is flipped."""
    raw = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        for place, byte in enumerate(raw):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), place)
                with suppress(ArchiveError):
                    yield place, bit, seen(path)
            os.pwrite(file.fileno(), bytes([byte]), place)


FLIPPED = sorted(SOUND.keys() - {"empty"})


@pytest.mark.parametrize("kind", FLIPPED)
def test_any_flipped_bit_is_refused_or_changes_nothing(tmp_path: Path, kind: str) -> None:
    """Every bit of an archive of each form: what is accepted has a harmless bit, and the same files."""
    raw = SOUND[kind]()
    before, free = java_sees(raw), harmless(raw)
    accepted = 0
    for place, bit, found in flipped(put(tmp_path / "a.mar", raw)):
        changed = (tmp_path / "a.mar").read_bytes()
        assert found == before == java_sees(changed) == java_sees(changed, newer=True)
        assert free.get(place, 0) >> bit & 1, (place, bit)
        accepted += 1
    assert accepted


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_of_what_we_built_is_refused_or_changes_nothing(
    tiny_onnx: Path, tmp_path: Path, data: st.DataObject
) -> None:
    """Anywhere in it; the last kilobytes, which are all structure, more often."""
    raw = bytearray(tiny_onnx.read_bytes())
    places = st.integers(0, len(raw) - 1) | st.integers(len(raw) - 4_000, len(raw) - 1)
    place, bit = data.draw(places), data.draw(st.integers(0, 7))
    raw[place] ^= 1 << bit
    try:
        found = mar.verify(put(tmp_path / "a.mar", bytes(raw)))
    except ArchiveError:
        return
    assert found.files == mar.read(tiny_onnx).files
    assert java_sees(bytes(raw)) == java_sees(tiny_onnx.read_bytes())
    assert harmless(bytes(raw))[place] >> bit & 1


NUMBERS = st.sampled_from([0, 1, 8, 9, 10, 20, 45, 30, 33, 100, 0x800, 0xFFFF])
SIZES = st.integers(0, 120) | st.sampled_from([LIMIT, LIMIT - 1])
HEADER = st.fixed_dictionaries(
    {},
    optional={
        "flags": st.sampled_from([0, 1, 2, 8, 10, 0x800, 0x808]),
        "method": st.sampled_from([0, 8, 12]),
        "crc32": st.sampled_from([0, 1, zlib.crc32(SHOWN), zlib.crc32(OTHER)]),
        "stored": SIZES,
        "size": SIZES,
    },
)
EXTRA = st.sampled_from([b"", UNIX, zip64(0, 0), zip64(7, 7), zip64(42), b"\xfe\xca\0\0", b"\0"])
CONTENT = st.sampled_from([b"", SHOWN, OTHER, inside("handler.py", OTHER), inside("b.py", b""), b"x" * 99])


@st.composite
def pieces(draw: st.DrawFn) -> Piece:
    """An entry of which some things do not fit together."""
    content = draw(CONTENT)
    method, flags = draw(st.sampled_from([(0, 0), (0, 8), (8, 0), (8, 8), (8, 0x808)]))
    piece = Piece(draw(st.sampled_from(["a.py", "handler.py", "sub/", "b/c"])), content, method, flags)
    nothing: dict[str, int] = {}
    piece.local = draw(st.just(nothing) | HEADER)
    piece.central = draw(st.just(nothing) | HEADER | st.just(dict(piece.local)))
    piece.local_extra, piece.central_extra = draw(st.tuples(EXTRA, EXTRA) | EXTRA.map(lambda one: (one, one)))
    stored, after = piece.stored(), descriptor(piece)
    data = st.sampled_from(
        [
            stored,
            stored[:-1],
            stored + b"\0",
            stored + after,
            stored + after + inside("handler.py", OTHER),
            b"",
        ]
    )
    piece.data = draw(st.none() | data)
    if piece.data is not None and draw(st.booleans()):
        piece.central = {**piece.central, "stored": len(piece.data)}
    large = descriptor(piece, large=True)
    piece.descriptor = draw(st.sampled_from([None, None, b"", after, after[4:], large, large[4:]]))
    piece.listed = draw(st.sampled_from([True, True, True, False]))
    return piece


@settings(max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(pieces(), max_size=3), st.sampled_from([b"", b"\0", inside("handler.py", OTHER)]))
def test_what_is_accepted_java_unpacks_to_the_same(tmp_path: Path, made: list[Piece], gap: bytes) -> None:
    """Zips of parts that contradict each other: whatever is accepted is the same to every reader."""
    try:
        raw = written([Piece("MAR-INF/MANIFEST.json", MANIFEST), *made], gap=gap)
        found = seen(put(tmp_path / "a.mar", raw))
    except ArchiveError:
        return
    assert found == java_sees(raw) == java_sees(raw, newer=True)
    with zipfile.ZipFile(tmp_path / "a.mar") as archive:
        assert {name: archive.read(name) for name in archive.namelist() if name[-1] != "/"} == found


# -- Java itself ----------------------------------------------------------------------------------

UNZIP = """
import java.io.*;
import java.nio.file.*;
import java.util.*;
import java.util.zip.*;

public class Unzip {
    public static void main(String[] folder) throws Exception {
        File[] files = new File(folder[0]).listFiles();
        for (File file : files) {
            StringBuilder told = new StringBuilder(file.getName());
            try (ZipInputStream zip = new ZipInputStream(new FileInputStream(file))) {
                for (ZipEntry entry; (entry = zip.getNextEntry()) != null; ) {
                    byte[] name = entry.getName().getBytes("UTF-8");
                    told.append(" ").append(HexFormat.of().formatHex(name));
                    told.append("=").append(HexFormat.of().formatHex(zip.readAllBytes()));
                }
            } catch (Exception error) {
                told.append(" refused");
            }
            System.out.println(told);
        }
    }
}
"""


def test_the_simulation_of_java_is_true(tmp_path: Path) -> None:
    """Every zip of this file, and many flipped bits, read by this machine's own ZipInputStream."""
    java = shutil.which("java")
    modules = (
        subprocess.run([java, "--list-modules"], capture_output=True, text=True, check=False)
        if java
        else None
    )
    if java is None or modules is None or "jdk.compiler@" not in modules.stdout:
        pytest.skip("this machine has no Java that compiles")
    version = subprocess.run([java, "-version"], capture_output=True, text=True, check=True).stderr
    newer = int(version.split('"')[1].split(".")[0]) >= 21
    made = [make() for make in SOUND.values()] + [make() for make, _ in REFUSED.values()]
    made += [make() for make in TWO_FACED.values()]
    for kind in ("default", "jar", "zip64"):
        raw = SOUND[kind]()
        for place in range(0, len(raw), 2):
            changed = bytearray(raw)
            changed[place] ^= 1 << place % 7
            made.append(bytes(changed))
    zips = tmp_path / "zips"
    zips.mkdir()
    for number, raw in enumerate(made):
        (zips / str(number)).write_bytes(raw)
    (tmp_path / "Unzip.java").write_text(UNZIP)
    command = [java, str(tmp_path / "Unzip.java"), str(zips)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    answers = dict(line.partition(" ")[::2] for line in done.stdout.splitlines())
    assert len(answers) == len(made)
    for number, raw in enumerate(made):
        try:
            entries = [
                f"{name.encode().hex()}={content.hex()}" for name, content in as_java(raw, newer=newer)
            ]
        except JavaRefuses:
            assert answers[str(number)].endswith("refused"), number
        else:
            assert answers[str(number)].split() == entries, number


# -- folders --------------------------------------------------------------------------------------


def folder(path: Path, files: Mapping[str, bytes]) -> Path:
    """The folder form of an archive."""
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def test_a_folder_is_read_by_the_same_rules(tmp_path: Path) -> None:
    """What is no zip's fault: names, bytecode, depth, what is neither file nor folder."""
    assert seen(folder(tmp_path / "a", FILES)) == FILES
    for name, message in (
        ("Handler.py", ALIKE),
        ("handler\u200b.py", "not shown"),
        ("__pycache__/handler.cpython-311.pyc", "instead of 'handler.py'"),
        ("handler/__init__.py", "instead of 'handler.py'"),
        ("/".join(["d"] * 100), "folders"),
    ):
        with pytest.raises(ArchiveCorrupt, match=message) as caught:
            seen(folder(tmp_path / message.split()[0], {**FILES, name: b"x"}))
        assert str(caught.value).isprintable()
    bad = os.fsencode(folder(tmp_path / "latin", FILES)) + b"/gr\xfc\xdfe"
    os.close(os.open(bad, os.O_CREAT))
    with pytest.raises(ArchiveCorrupt, match="not shown"):
        seen(tmp_path / "latin")


def test_folders_without_end_are_refused_at_once(tmp_path: Path) -> None:
    """1,500 in each other, with nothing in them: neither a RecursionError nor a long walk."""
    here = folder(tmp_path / "a", FILES)
    nest(here, 1_500)
    from torchmar.files import remove_tree

    try:
        with pytest.raises(ArchiveCorrupt, match="folders more than 32 deep"):
            seen(here)
    finally:
        remove_tree(here)


def test_a_folder_of_nothing_but_a_folder_is_refused(tmp_path: Path) -> None:
    """TorchServe would serve that one instead: here with a manifest and a handler of its own."""
    inner = {"MAR-INF/MAR-INF/MANIFEST.json": MANIFEST, "MAR-INF/handler.py": OTHER}
    path = folder(tmp_path / "a", {"MAR-INF/MANIFEST.json": MANIFEST, **inner})
    with pytest.raises(ArchiveCorrupt, match="put a file beside MAR-INF/"):
        seen(path)


def _instead(file: Path, make: Callable[[], None]) -> None:
    file.unlink()
    make()


def test_a_file_that_becomes_another_while_it_is_read(tmp_path: Path) -> None:
    """Longer, shorter, a link, a pipe: never what is not what was looked at, never a wait."""
    changes: tuple[Callable[[Path], object], ...] = (
        lambda file: file.write_bytes(SHOWN + b"x"),
        lambda file: file.write_bytes(b"x"),
        lambda file: _instead(file, lambda: file.symlink_to("/etc/hostname")),
        lambda file: _instead(file, lambda: os.mkfifo(file)),
        lambda file: file.unlink(),
    )
    for number, change in enumerate(changes):
        path = folder(tmp_path / str(number), FILES)
        with opened(path) as contents:
            change(path / "handler.py")
            blocks = contents.blocks("handler.py")
            with pytest.raises((ArchiveError, OSError)):
                list(blocks)


def test_a_mar_that_is_written_to_while_it_is_read(tmp_path: Path) -> None:
    """What was seen of it is no archive."""
    path = put(tmp_path / "a.mar", SOUND["default"]())

    def write_while_reading() -> None:
        with opened(path) as contents:
            assert contents.sizes
            path.write_bytes(SOUND["default"]() + b"x")

    with pytest.raises(ArchiveCorrupt, match="was changed while it was read"):
        write_while_reading()


@pytest.mark.parametrize(
    "name", ["a\nok  good.mar", "a\x1b[2J.mar", os.fsdecode(b"a\xff.mar"), "a\u202e.mar"]
)
@pytest.mark.parametrize("is_folder", [False, True])
def test_a_file_whose_name_forges_a_line_is_refused(tmp_path: Path, name: str, is_folder: bool) -> None:
    """`torchmar verify store/*` would print a second line, which is about another archive."""
    path = tmp_path / name
    folder(path, FILES) if is_folder else put(path, SOUND["default"]())
    with pytest.raises(ArchiveError, match="rename it") as caught:
        mar.read(path)
    assert str(caught.value).isprintable()


def test_a_folder_that_was_zipped_is_what_it_was(tmp_path: Path) -> None:
    """With the empty files that keep Python from caching, which are none of its files in either form."""
    (tmp_path / "a.mar").write_bytes(written([Piece(name, content) for name, content in FILES.items()]))
    here = pack.variant(mar.verify(tmp_path / "a.mar"), tmp_path / "here", {}).path
    assert (here / PYCACHE).is_file()
    names = sorted(path.relative_to(here).as_posix() for path in here.rglob("*") if path.is_file())
    zipped = put(tmp_path / "b.mar", written([Piece(name, (here / name).read_bytes()) for name in names]))
    assert mar.verify(zipped).contents_sha256 == mar.verify(here).contents_sha256
    again = pack.variant(mar.verify(zipped), tmp_path / "again", {}).path
    assert (
        mar.verify(again).contents_sha256
        == pack.variant(mar.verify(here), tmp_path / "c.mar", {}).contents_sha256
    )
    for piece in (
        Piece(PYCACHE, b"", method=DEFLATED, data=deflated(b"x"), local={"stored": 3}, central={"stored": 3}),
        Piece(f"d/{PYCACHE}", b"", local={"crc32": 1}, central={"crc32": 1}),
    ):
        path = put(tmp_path / "d.mar", written([Piece(mar.MANIFEST, MANIFEST), piece]))
        with pytest.raises(ArchiveCorrupt):
            mar.read(path)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    """A pipe, a device, a folder of which nothing may be read."""
    os.mkfifo(tmp_path / "a.mar")
    with pytest.raises(ArchiveCorrupt, match="it is no file"):
        mar.read(tmp_path / "a.mar")
    with pytest.raises(ArchiveCorrupt, match="it is no file"):
        mar.read("/dev/zero")


# -- tar ------------------------------------------------------------------------------------------


def test_a_tar_is_refused_with_what_to_do(tmp_path: Path) -> None:
    """TorchServe serves what torch-model-archiver --archive-format tgz writes; it is not called corrupt."""
    path = packed_by_stock(tmp_path, "tgz")
    for use in (mar.read, mar.verify):
        with pytest.raises(ArchiveError, match=r"m\.tar\.gz: repack it with torch-model-archiver") as caught:
            use(path)
        assert not isinstance(caught.value, ArchiveCorrupt)
        assert "which TorchServe serves and torchmar does not read" in str(caught.value)
    assert mar.find_archives(tmp_path) == []
    subprocess.run(["tar", "-xzf", path.name], cwd=tmp_path, check=True)
    assert mar.verify(tmp_path / "m").name == "m"
    shutil.copyfile(path, tmp_path / "m.mar")
    with pytest.raises(ArchiveCorrupt, match="which TorchServe takes for a zip"):
        mar.verify(tmp_path / "m.mar")
