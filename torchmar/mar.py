"""A .mar, ours or a stranger's: what is inside, and whether it is whole.

Nothing of an archive is executed here. What torchmar adds to one lies in MAR-INF/, where TorchServe does not
look:

    digests.json   the SHA-256 and size of every other file in the archive
    build.json     what it was built from: the inputs' digest, versions, weights
    parity.json    how closely the artifact answers as the module does
    model.yaml     the spec, as it was
    golden/        golden requests, and answers.json with what the module answers to each
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import yaml

from .errors import ArchiveCorrupt, ArchiveError

MANIFEST = "MAR-INF/MANIFEST.json"
DIGESTS = "MAR-INF/digests.json"
BUILD = "MAR-INF/build.json"
PARITY = "MAR-INF/parity.json"
GOLDEN = "MAR-INF/golden"
GOLDEN_ANSWERS = f"{GOLDEN}/answers.json"

# What reading someone else's archive may cost: TorchServe itself has no limit.
MAX_FILES = 10_000
MAX_BYTES = 64 * 2**30
MAX_METADATA = 16 * 2**20
MAX_NODES = 100_000


@dataclass(frozen=True)
class FileEntry:
    """One file in an archive; `size` in bytes, unpacked."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Archive:
    """A .mar, read: nothing of it was executed."""

    path: Path
    sha256: str
    manifest: Mapping[str, Any]
    config: Mapping[str, Any]
    files: tuple[FileEntry, ...]
    digests: Mapping[str, Any] | None
    build: Mapping[str, Any] | None
    parity: Mapping[str, Any] | None

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self.manifest["model"]["modelName"])

    @property
    def version(self) -> str:
        """The model's version; TorchServe takes 1.0 where the manifest has none."""
        return str(self.manifest["model"].get("modelVersion") or "1.0")

    def problems(self) -> list[str]:
        """What does not match its digests; [] for an archive that is whole, or that has none."""
        if self.digests is None:
            return []
        recorded: Mapping[str, Any] = self.digests["files"]
        present = {entry.name: entry for entry in self.files if entry.name != DIGESTS}
        found = [f"{name}: missing" for name in sorted(recorded.keys() - present.keys())]
        found += [f"{name}: added after the build" for name in sorted(present.keys() - recorded.keys())]
        found += [
            f"{name}: changed after the build"
            for name in sorted(present.keys() & recorded.keys())
            if recorded[name] != {"sha256": present[name].sha256, "size": present[name].size}
        ]
        return found


def read(path: str | Path) -> Archive:
    """Read a .mar, ours or a stranger's, without executing anything of it. Raises ArchiveCorrupt."""
    path = Path(path)
    with _opened(path) as mar:
        entries = tuple(_digest_entry(mar, info) for info in mar.infolist() if not info.is_dir())
        manifest = _read_json(path, mar, MANIFEST)
        if manifest is None or not isinstance(manifest.get("model"), dict):
            raise ArchiveCorrupt(f"{path}: has no {MANIFEST} with a model in it; TorchServe would refuse it")
        if not manifest["model"].get("modelName"):
            raise ArchiveCorrupt(f"{path}: {MANIFEST} names no model")
        config = _read_config(path, mar, manifest["model"].get("configFile"))
        extra = [_read_json(path, mar, name) for name in (DIGESTS, BUILD, PARITY)]
    if extra[0] is not None and not isinstance(extra[0].get("files"), dict):
        raise ArchiveCorrupt(f"{path}: {DIGESTS} lists no files")
    if extra[0] is not None and extra[0].get("algorithm") != "sha256":
        raise ArchiveCorrupt(f"{path}: {DIGESTS} is by {extra[0].get('algorithm')!r}, expected 'sha256'")
    return Archive(path, file_sha256(path), manifest, config, entries, *extra)


def verify(path: str | Path) -> Archive:
    """`read`, and hold every file against its digest. Raises ArchiveCorrupt, naming each that differs."""
    archive = read(path)
    problems = archive.problems()
    if problems:
        raise ArchiveCorrupt(
            f"{path}: does not match its digests\n"
            + "\n".join(f"  {problem}" for problem in problems)
            + "\n  Build it anew, or fetch it again from where it was built"
        )
    return archive


def extract(path: Path, folder: Path) -> None:
    """Unpack a .mar into an empty folder, as TorchServe does before it starts a worker."""
    with _opened(path) as mar:
        try:
            mar.extractall(folder)
        except OSError as error:
            raise ArchiveError(f"{path}: could not be unpacked into {folder}: {error}") from error


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """A .mar whose entries are safe to read: no path leads out of it, and it is not a bomb."""
    try:
        with zipfile.ZipFile(path) as mar:
            infos = mar.infolist()
            total = sum(info.file_size for info in infos)
            if len(infos) > MAX_FILES or total > MAX_BYTES:
                raise ArchiveCorrupt(f"{path}: {len(infos):,} files of {total:,} bytes: too much for a model")
            names = [info.filename for info in infos]
            for name in names:
                if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
                    raise ArchiveCorrupt(f"{path}: {name!r} leads out of the archive: do not serve it")
            if len(set(names)) != len(names):
                twice = sorted({name for name in names if names.count(name) > 1})
                raise ArchiveCorrupt(f"{path}: holds {', '.join(twice)} more than once")
            _require_no_gaps(path, mar)
            yield mar
    except FileNotFoundError:
        raise ArchiveError(f"{path}: no such file") from None
    except zipfile.BadZipFile as error:
        raise ArchiveCorrupt(f"{path}: not a model archive: {error}") from None
    except ArchiveError:
        raise
    except Exception as error:  # what is damaged makes zipfile raise anything: zlib.error, OverflowError, …
        what = str(error) or type(error).__name__
        raise ArchiveCorrupt(f"{path}: cannot be read: {what}") from None


def _require_no_gaps(path: Path, mar: zipfile.ZipFile) -> None:
    """Refuse a zip that holds anything which its directory does not list.

    Python reads a zip by the directory at its end; TorchServe unpacks it from its beginning, entry by entry.
    What lies between the listed entries would be served and never seen here.
    """
    assert mar.fp is not None
    wrong = ArchiveCorrupt(f"{path}: holds data that its directory does not list: do not serve it")
    end = 0
    for info in sorted(mar.infolist(), key=lambda item: item.header_offset):
        if info.header_offset != end:
            raise wrong
        mar.fp.seek(info.header_offset)
        name_length, extra_length = struct.unpack("<26xHH", mar.fp.read(30))
        name = mar.fp.read(name_length).decode("utf-8" if info.flag_bits & 0x800 else "cp437")
        if name != info.orig_filename:
            raise wrong
        end += 30 + name_length + extra_length + info.compress_size
        if info.flag_bits & 0x08:
            end += _descriptor_size(mar.fp, end, info)
    if end != mar.start_dir:
        raise wrong


def _descriptor_size(file: IO[bytes], offset: int, info: zipfile.ZipInfo) -> int:
    """Bytes after an entry that was written as a stream: [signature] crc size size, of 4 or 8 bytes."""
    file.seek(offset)
    content = file.read(24)
    signature = 4 if content.startswith(b"PK\x07\x08") else 0
    small = struct.pack("<II", info.compress_size & 0xFFFFFFFF, info.file_size & 0xFFFFFFFF)
    return signature + (12 if content[signature + 4 : signature + 12] == small else 20)


def _digest_entry(mar: zipfile.ZipFile, info: zipfile.ZipInfo) -> FileEntry:
    digest = hashlib.sha256()
    with mar.open(info) as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return FileEntry(info.filename, info.file_size, digest.hexdigest())


def _read_json(path: Path, mar: zipfile.ZipFile, name: str) -> dict[str, Any] | None:
    if name not in mar.namelist():
        return None
    try:
        content = json.loads(_read_small(path, mar, name))
    except (ValueError, RecursionError) as error:
        raise ArchiveCorrupt(f"{path}: {name} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ArchiveCorrupt(f"{path}: {name} holds no JSON object")
    return content


def _read_config(path: Path, mar: zipfile.ZipFile, name: Any) -> dict[str, Any]:
    if not name:
        return {}
    if str(name) not in mar.namelist():
        raise ArchiveCorrupt(f"{path}: its manifest names {name}, which it does not hold")
    try:
        text = _read_small(path, mar, str(name))
        if _expanded(yaml.compose(text, Loader=yaml.SafeLoader), {}) > MAX_NODES:
            raise ArchiveCorrupt(f"{path}: {name} is written so that it expands without end")
        content = yaml.safe_load(text)
    except ArchiveCorrupt:
        raise
    except Exception as error:  # PyYAML's constructors raise anything: KeyError for `!!bool x`, …
        raise ArchiveCorrupt(f"{path}: {name} is not YAML: {error}") from None
    return content if isinstance(content, dict) else {}


def _read_small(path: Path, mar: zipfile.ZipFile, name: str) -> bytes:
    """What is about the model and not the model itself."""
    size = mar.getinfo(name).file_size
    if size > MAX_METADATA:
        raise ArchiveCorrupt(f"{path}: {name} has {size:,} bytes, at most {MAX_METADATA:,} are expected")
    return mar.read(name)


def _expanded(node: yaml.Node | None, known: dict[int, float]) -> float:
    """How many nodes a document has with its aliases written out; without end where it contains itself."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = math.inf
        pairs = isinstance(node, yaml.MappingNode)
        children = [part for pair in node.value for part in pair] if pairs else node.value
        known[id(node)] = 1 + sum(_expanded(child, known) for child in children)
    return known[id(node)]


def file_sha256(path: Path) -> str:
    """Read in blocks: an archive may be larger than the memory. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
