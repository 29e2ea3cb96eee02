"""Read a model archive, torchmar's or a stranger's, and check that it is complete.

An archive has two forms with the same files: a .mar, and a folder that TorchServe serves in place. Nothing of
an archive is executed here. torchmar's additions lie in MAR-INF/, which TorchServe ignores:

    digests.json   the SHA-256 and size of every other file in the archive
    build.json     its inputs: digest, versions, weights
    parity.json    how closely the exported artifact answers as the module does
    price.json     what compressing it costs, see measure/price.py
    lineage.json   its parent, data and metrics, if whoever built it said so, see lineage.py
    reference.json what requests of a reference and their answers are like, see drift/
    model.yaml     the spec at build time
    golden/        golden requests, and answers.json with the expected answers, see golden.py
    compare.json   how to compare two answers, see compare.py
"""

from __future__ import annotations

import codecs
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from .compare import CLOSE, Comparator
from .errors import ArchiveCorrupt, ArchiveError
from .files import is_file
from .golden import GoldenRequest
from .lineage import Lineage, Parent
from .manifest import config_faults, manifest_faults
from .names import shown
from .unpack import Contents, opened

MANIFEST = "MAR-INF/MANIFEST.json"
DIGESTS = "MAR-INF/digests.json"
BUILD = "MAR-INF/build.json"
PARITY = "MAR-INF/parity.json"
PRICE = "MAR-INF/price.json"
LINEAGE = "MAR-INF/lineage.json"
REFERENCE = "MAR-INF/reference.json"
SPEC = "MAR-INF/model.yaml"
COMPARE = "MAR-INF/compare.json"
GOLDEN = "MAR-INF/golden"
_ANSWERS = "answers.json"
GOLDEN_ANSWERS = f"{GOLDEN}/{_ANSWERS}"

# Limits for a stranger's archive, besides those of unpack/; TorchServe itself has none.
MAX_METADATA = 16 * 2**20
MAX_CONFIG = 2**20
MAX_NODES = 100_000
MAX_DIGITS = 250  # of a number, which is then less than the largest float


PICKLED = "holds a pickled module: loading it runs code"
"""The message for an archive that `is_pickled`."""


@dataclass(frozen=True)
class FileEntry:
    """One file in an archive; `size` is in bytes, unpacked."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Accepted:
    """What the `accept` section of an archive's model.yaml allows; None if it is silent.

    It limits how far numbers may differ, the share of inputs that must get the same answer, what compressing
    may cost, and how much of the task's metric it may lose.
    """

    max_abs_error: float | None = None
    agreement: float | None = None
    cost: float | None = None
    metric_drop: float | None = None


@dataclass(frozen=True)
class Archive:
    """A .mar or an archive's folder as read, without executing anything of it.

    `sha256` is the digest of the .mar's bytes, as of `sha256sum`; for a folder it is `contents_sha256`.
    `size` in bytes is that of the .mar, or of all files of the folder. `faults` are reasons why TorchServe
    could not serve or manage it. Names and versions come from the manifest unchecked: see
    torchmar.names.shown.
    """

    path: Path
    sha256: str
    size: int
    manifest: Mapping[str, Any]
    config: Mapping[str, Any]
    files: tuple[FileEntry, ...]
    digests: Mapping[str, Any] | None
    build: Mapping[str, Any] | None
    parity: Mapping[str, Any] | None
    comparator: Comparator = CLOSE
    faults: tuple[str, ...] = ()
    price: Mapping[str, Any] | None = None
    accepts: Accepted = Accepted()
    """What its model.yaml accepts, if it has a price; `accepted` reads it for any archive."""
    lineage: Lineage | None = None

    @property
    def contents_sha256(self) -> str:
        """Return the SHA-256 of its files' `listing`: equal in both forms and for any compression.

        In an unchanged archive of torchmar's it is the SHA-256 of MAR-INF/digests.json.
        """
        return hashlib.sha256(listing(self.files)).hexdigest()

    @property
    def name(self) -> str:
        """Return the model's name."""
        return str(self.manifest["model"]["modelName"])

    @property
    def version(self) -> str:
        """Return the model's version; TorchServe's default is 1.0."""
        version = self.manifest["model"].get("modelVersion")
        return "1.0" if version is None else str(version)

    def as_parent(self) -> Parent:
        """Return it as the parent in the lineage of another archive."""
        return Parent(self.name, self.version, self.sha256)

    @property
    def is_pickled(self) -> bool:
        """Return whether a worker loads a whole pickled module, which runs any code in it.

        Only for archives with torchmar's handlers; a stranger's handler may load anything.
        """
        section = self.config.get("handler")
        models = section.get("models") if isinstance(section, Mapping) else None
        parts = models.values() if isinstance(models, Mapping) else ()
        return any(isinstance(part, Mapping) and part.get("format") == "pickled" for part in parts)

    def problems(self) -> list[str]:
        """Return what does not match the digests; [] for a complete archive, or one without digests."""
        if self.digests is None:
            return []
        recorded: Mapping[str, Any] = self.digests["files"]
        present = {entry.name: entry for entry in self.files if entry.name != DIGESTS}
        found = [(name, "missing") for name in sorted(recorded.keys() - present.keys())]
        found += [(name, "added after the build") for name in sorted(present.keys() - recorded.keys())]
        found += [
            (name, "changed after the build")
            for name in sorted(present.keys() & recorded.keys())
            if recorded[name] != {"sha256": present[name].sha256, "size": present[name].size}
        ]
        return [f"{shown(name, 200)}: {what}" for name, what in found]


def listing(files: Iterable[FileEntry]) -> bytes:
    """Return MAR-INF/digests.json: the SHA-256 and size of each other file, by name."""
    listed = {file.name: {"sha256": file.sha256, "size": file.size} for file in files if file.name != DIGESTS}
    content = {"algorithm": "sha256", "files": listed}
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def is_archive_folder(path: Path) -> bool:
    """Return whether a path is an archive's folder."""
    return is_file(path / MANIFEST)


def find_archives(store: Path) -> list[Path]:
    """Return the archives of both forms in a model store, by name; hidden ones are being built."""
    found = [path for path in store.iterdir() if path.suffix == ".mar" or is_archive_folder(path)]
    return sorted(path for path in found if not path.name.startswith("."))


def read(path: str | Path) -> Archive:
    """Read a .mar or an archive's folder, torchmar's or a stranger's, without executing anything of it.

    Raises ArchiveCorrupt.
    """
    path = Path(path)
    with opened(path) as contents, ThreadPoolExecutor(1) as aside:
        # hashlib releases Python's lock, so the whole .mar is digested in parallel with its files.
        whole = aside.submit(contents.sha256)
        files = tuple(
            FileEntry(name, size, _digest(contents.blocks(name))) for name, size in contents.sizes.items()
        )

        def small(name: str) -> bytes | None:
            return _read_small(path, contents, name) if name in contents.sizes else None

        return archive_from_files(path, files, small, whole.result())


def archive_from_files(
    path: Path, files: tuple[FileEntry, ...], read_file: Callable[[str], bytes | None], sha256: str | None
) -> Archive:
    """Make the Archive at `path` from its files' digests and the bytes of MAR-INF/ and the configuration.

    `sha256` is that of the .mar, None for a folder. Raises ArchiveCorrupt if the files do not make an
    archive.
    """
    raw = read_file(MANIFEST)
    manifest = _manifest(path, raw)
    faults = [f"{MANIFEST}: {fault}" for fault in manifest_faults(manifest, [file.name for file in files])]
    if raw is not None and raw.startswith(codecs.BOM_UTF8):
        faults.append(f"{MANIFEST}: save it without a byte order mark: TorchServe's worker ends at it")
    name = manifest["model"].get("configFile")
    config: dict[str, Any] = {}
    if name:
        config, found = _config(path, str(name), read_file(str(name)))
        faults += found
    digests, build, parity, price = (
        _json(path, name, read_file(name)) for name in (DIGESTS, BUILD, PARITY, PRICE)
    )
    accepts = Accepted() if price is None else _accepted(path, read_file(SPEC) or b"")
    if digests is not None and not isinstance(digests.get("files"), dict):
        raise ArchiveCorrupt(f"{path}: {DIGESTS} lists no files")
    if digests is not None and digests.get("algorithm") != "sha256":
        algorithm = shown(repr(digests.get("algorithm")))
        raise ArchiveCorrupt(f"{path}: {DIGESTS} is by {algorithm}, expected 'sha256'")
    try:
        comparator = Comparator.of(_json(path, COMPARE, read_file(COMPARE)))
    except ValueError as error:
        comparator = CLOSE
        faults.append(f"{COMPARE}: {shown(str(error), 200)}")
    expected = _json(path, GOLDEN_ANSWERS, read_file(GOLDEN_ANSWERS)) or {}
    asked = {file.name.removeprefix(f"{GOLDEN}/") for file in files if file.name.startswith(f"{GOLDEN}/")}
    for name in sorted(expected.keys() - (asked - {_ANSWERS})):
        faults.append(f"{GOLDEN_ANSWERS}: take {shown(name)!r} out: it is no request of {GOLDEN}/")
    size = sum(file.size for file in files) if sha256 is None else path.stat().st_size
    sha256 = hashlib.sha256(listing(files)).hexdigest() if sha256 is None else sha256
    files = tuple(sorted(files, key=lambda file: file.name))
    return Archive(
        path,
        sha256,
        size,
        manifest,
        config,
        files,
        digests,
        build,
        parity,
        comparator,
        tuple(faults),
        price,
        accepts,
        _lineage(path, read_file(LINEAGE)),
    )


def model_name(path: Path) -> str:
    """Return the name of an archive's model, without reading the rest of it. Raises ArchiveError."""
    with opened(path) as contents:
        raw = _read_small(path, contents, MANIFEST) if MANIFEST in contents.sizes else None
    return str(_manifest(path, raw)["model"]["modelName"])


def _manifest(path: Path, raw: bytes | None) -> dict[str, Any]:
    manifest = _json(path, MANIFEST, raw)
    if manifest is None or not isinstance(manifest.get("model"), dict):
        raise ArchiveCorrupt(f"{path}: has no {MANIFEST} with a model in it; TorchServe would refuse it")
    if not manifest["model"].get("modelName"):
        raise ArchiveCorrupt(f"{path}: {MANIFEST} names no model")
    return manifest


def _lineage(path: Path, raw: bytes | None) -> Lineage | None:
    """Return the lineage that an archive carries, None without one. Raises ArchiveCorrupt."""
    content = _json(path, LINEAGE, raw)
    try:
        return None if content is None else Lineage.of(content)
    except ValueError as error:
        raise ArchiveCorrupt(f"{path}: {LINEAGE}: {error}") from None


def verify(path: str | Path) -> Archive:
    """Read an archive, compare every file with its digest, and check that TorchServe can serve it.

    Raises ArchiveCorrupt, which names each differing file; ArchiveError, which names each fault.
    """
    archive = read(path)
    problems = archive.problems()
    if problems:
        raise ArchiveCorrupt(
            f"{path}: does not match its digests\n"
            + "\n".join(f"  {problem}" for problem in problems)
            + "\n  Rebuild it, or fetch it again from its origin"
        )
    faults = list(archive.faults)
    if archive.path.is_file() and not archive.path.name.endswith(".mar"):
        faults.append("let its name end in .mar: TorchServe takes every other file for a tar.gz")
    if faults:
        raise ArchiveError(
            f"{path}: TorchServe cannot serve it as it is\n" + "\n".join(f"  {fault}" for fault in faults)
        )
    return archive


def golden_requests(archive: Archive) -> tuple[GoldenRequest, ...]:
    """Return an archive's golden requests with their expected answers, if it has any.

    They are the verified ones. Raises ArchiveCorrupt.
    """
    prefix = f"{GOLDEN}/"
    names = [file.name for file in archive.files if file.name.startswith(prefix)]
    files = _again(archive, names)
    expected = _json(archive.path, GOLDEN_ANSWERS, files.pop(GOLDEN_ANSWERS, None)) or {}
    bodies = {name.removeprefix(prefix): body for name, body in files.items()}
    return tuple(GoldenRequest(name, body, expected.get(name)) for name, body in bodies.items())


def reference_json(archive: Archive) -> dict[str, Any] | None:
    """Return the content of its reference.json, unchecked; None without one. Raises ArchiveError."""
    if REFERENCE not in {file.name for file in archive.files}:
        return None
    return _json(archive.path, REFERENCE, _again(archive, [REFERENCE])[REFERENCE])


def accepted(archive: Archive) -> Accepted:
    """Return what its model.yaml accepts. Raises ArchiveCorrupt."""
    if SPEC not in {file.name for file in archive.files}:
        return Accepted()
    return _accepted(archive.path, _again(archive, [SPEC])[SPEC])


def _accepted(path: Path, raw: bytes | None) -> Accepted:
    spec, _ = _config(path, SPEC, raw)
    accept = spec.get("accept")
    if not isinstance(accept, dict):
        return Accepted()
    # Archives of torchmar's first form use another name for it.
    agreement = accept.get("agreement", accept.get("top1_agreement"))
    found = {key: accept.get(key) for key in ("max_abs_error", "cost", "metric_drop")}
    found["agreement"] = agreement
    return Accepted(**{k: float(v) for k, v in found.items() if isinstance(v, int | float) and v >= 0})


def extract(path: Path, folder: Path) -> None:
    """Unpack a .mar into an empty folder, as TorchServe does before it starts a worker.

    For an archive's folder, `folder` gets symbolic links instead of copies.
    """
    with opened(path) as contents:
        try:
            contents.extract(folder)
        except OSError as error:
            raise ArchiveError(f"{path}: could not be unpacked into {folder}: {error}") from error


def _read_small(path: Path, contents: Contents, name: str) -> bytes:
    """Return a small file about the model; raises for a large one."""
    size = contents.sizes[name]
    if size > MAX_METADATA:
        raise ArchiveCorrupt(f"{path}: {name} has {size:,} bytes, at most {MAX_METADATA:,} are expected")
    return b"".join(contents.blocks(name))


def _again(archive: Archive, names: Iterable[str]) -> dict[str, bytes]:
    """Return some of an archive's small files, as they were when it was read. Raises ArchiveError."""
    known = {file.name: file.sha256 for file in archive.files}
    with opened(archive.path) as contents:
        found = {name: _read_small(archive.path, contents, name) for name in names if name in contents.sizes}
    for name in names:
        if name not in found or hashlib.sha256(found[name]).hexdigest() != known[name]:
            raise ArchiveError(f"{archive.path}: {shown(name)} was changed since it was verified")
    return found


def _json(path: Path, name: str, raw: bytes | None) -> dict[str, Any] | None:
    if raw is None:
        return None
    try:
        content = json.loads(_utf8(raw))
    except (ValueError, RecursionError) as error:
        raise ArchiveCorrupt(f"{path}: {name} is not JSON: {shown(str(error), 200)}") from None
    if not isinstance(content, dict):
        raise ArchiveCorrupt(f"{path}: {name} holds no JSON object")
    return content


def _utf8(raw: bytes) -> str:
    """Decode UTF-8 as TorchServe does, and drop a byte order mark."""
    return raw.decode("utf-8-sig")


def _config(path: Path, name: str, raw: bytes | None) -> tuple[dict[str, Any], list[str]]:
    """Return a YAML file's mapping, {} for other content, and what TorchServe would refuse in it."""
    if raw is None:
        raise ArchiveCorrupt(f"{path}: its manifest names {shown(name)}, which it does not hold")
    if len(raw) > MAX_CONFIG:
        raise ArchiveCorrupt(
            f"{path}: {shown(name)} has {len(raw):,} bytes, at most {MAX_CONFIG:,} are expected"
        )
    try:
        loader = _Loader(_utf8(raw))
        node = loader.get_single_node()
        if _expanded(node, {}) > MAX_NODES:
            raise ArchiveCorrupt(f"{path}: {shown(name)} is written so that it expands without end")
        content = None if node is None else loader.construct_document(node)
        faults = [f"{shown(name)}: {fault}" for fault in config_faults(content, node)]
    except ArchiveCorrupt:
        raise
    except Exception as error:  # PyYAML's constructors raise anything, such as KeyError for `!!bool x`
        what = shown(" ".join(str(error).split()), 200)
        raise ArchiveCorrupt(f"{path}: {shown(name)} is not YAML: {what}") from None
    return content if isinstance(content, dict) else {}, faults


class _Loader(yaml.SafeLoader):
    """Reads YAML, except whole numbers that are too long to print or take minutes to compute."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > MAX_DIGITS:
            raise ValueError(f"a number has {len(node.value):,} digits, at most {MAX_DIGITS} are expected")
        return super().construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _expanded(node: yaml.Node | None, known: dict[int, float]) -> float:
    """Return a document's number of nodes with its aliases expanded; infinite if it contains itself."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = math.inf
        pairs = isinstance(node, yaml.MappingNode)
        children = [part for pair in node.value for part in pair] if pairs else node.value
        known[id(node)] = 1 + sum(_expanded(child, known) for child in children)
    return known[id(node)]


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256, read in blocks: an archive may exceed the memory. Raises OSError."""
    with path.open("rb") as file:
        return _digest(iter(partial(file.read, 1 << 20), b""))


def _digest(blocks: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()
