"""An archive made from another one: the same but for some of its files."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from .. import mar
from ..errors import ArchiveError
from ..mar import Archive, FileEntry
from ._place import beside, publish, read_back, write
from ._source import SMALL, Source


def variant(
    archive: Archive, target: Path, changes: Mapping[str, bytes | Path | None], *, force: bool = False
) -> Archive:
    """Make `target`, a .mar or else a folder, of an archive that was just verified and the files that differ.

    None leaves a file out; the digests are made anew. From folder to folder the large files are shared, as
    hard links: such a variant takes no time and no space. MAR-INF/build.json then says what the variant was
    made of, and no longer from which inputs; MAR-INF/parity.json is left out where more than the
    configuration differs. Both may be among `changes`. Raises ArchiveExists, ArchiveError.
    """
    contents = files_of(archive)
    if changes.keys() - {archive.manifest["model"].get("configFile")}:
        contents.pop(mar.PARITY, None)
    if archive.build is not None:
        kept = {key: value for key, value in archive.build.items() if key != "inputs_sha256"}
        build = json.dumps({**kept, "variant_of": archive.contents_sha256}, indent=2, sort_keys=True)
        contents[mar.BUILD] = (build + "\n").encode()
    try:
        for name, change in changes.items():
            contents.pop(name, None)
            if change is not None:
                contents[name] = Source.of(change) if isinstance(change, Path) else change
        with beside(target) as temporary:
            files = write(contents, temporary, target=target)
            made = read_back(temporary, files, contents)
            publish(temporary, target, force=force)
    except OSError as error:
        raise ArchiveError(f"{target}: could not be made: {error}") from error
    return replace(made, path=target)


def reversioned(
    archive: Archive,
    target: Path,
    version: str,
    config: Mapping[str, Any] | None = None,
    *,
    force: bool = False,
) -> Archive:
    """The same model under another version and, where one is given, with another model-config.yaml.

    An archive without a configuration stays without. Otherwise as `variant`.
    """
    model = {**archive.manifest["model"], "modelVersion": version}
    manifest = json.dumps({**archive.manifest, "model": model}, indent=2, sort_keys=True) + "\n"
    changes: dict[str, bytes | Path | None] = {mar.MANIFEST: manifest.encode()}
    if config is not None and model.get("configFile"):
        changes[str(model["configFile"])] = yaml.safe_dump(dict(config), sort_keys=False).encode()
    return variant(archive, target, changes, force=force)


def files_of(archive: Archive) -> dict[str, bytes | Source]:
    """What an archive that was just verified holds: large files where they lie, with their digests."""
    try:
        if archive.path.is_dir():
            return {file.name: _in_folder(archive.path / file.name, file) for file in archive.files}
        with zipfile.ZipFile(archive.path) as opened:
            return {file.name: _in_zip(opened, archive.path, file) for file in archive.files}
    except (OSError, zipfile.BadZipFile) as error:
        raise ArchiveError(f"{archive.path}: could not be read again: {error}") from error


def _in_folder(path: Path, file: FileEntry) -> bytes | Source:
    if file.size < SMALL:
        return path.read_bytes()
    source = replace(Source.of(path, linkable=True), sha256=file.sha256)
    if source.size != file.size:
        raise source.changed()
    return source


def _in_zip(opened: zipfile.ZipFile, path: Path, file: FileEntry) -> bytes | Source:
    info = opened.getinfo(file.name)
    if file.size < SMALL or info.compress_type != zipfile.ZIP_STORED:
        return opened.read(info)
    assert opened.fp is not None
    opened.fp.seek(info.header_offset + 26)
    name_length, extra_length = struct.unpack("<2H", opened.fp.read(4))
    offset = info.header_offset + 30 + name_length + extra_length
    known = {"offset": offset, "crc32": info.CRC, "sha256": file.sha256}
    return replace(Source.of(path), size=file.size, **known)
