"""Make an archive from another one by changing some of its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from .. import mar
from ..errors import ArchiveError
from ..mar import Archive, FileEntry
from ..unpack import STORED, Zip, opened
from ..unpack import Contents as Verified
from ._place import beside, publish, verify_written, write
from ._source import SMALL, Source


def variant(
    archive: Archive,
    target: Path,
    changes: Mapping[str, bytes | Path | None],
    *,
    link: bool = False,
    force: bool = False,
) -> Archive:
    """Make `target`, a .mar or else a folder, from a just verified archive and the files that differ.

    None leaves a file out; digests are computed again. Every file is compared with the archive as it was
    verified. With `link`, folders share large files as hard links, which takes no space; use it only for
    folders that torchmar made and keeps to itself. MAR-INF/build.json then names the archive that the variant
    was made from, and no inputs. MAR-INF/parity.json is left out if more than the configuration and the
    golden requests differ, and price.json, reference.json and lineage.json if more than these and
    model.yaml. `changes` may contain all five files. Raises ArchiveExists, ArchiveError.
    """
    contents = files_of(archive, link=link)
    asked = {name for name in changes if name == mar.COMPARE or name.startswith(f"{mar.GOLDEN}/")}
    known = {*asked, mar.LINEAGE, mar.REFERENCE, archive.manifest["model"].get("configFile")}
    if changes.keys() - known:
        contents.pop(mar.PARITY, None)
    if changes.keys() - known - {mar.SPEC}:
        contents.pop(mar.PRICE, None)
        contents.pop(mar.LINEAGE, None)
        contents.pop(mar.REFERENCE, None)
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
            made = verify_written(temporary, files, contents)
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
    link: bool = False,
    force: bool = False,
) -> Archive:
    """Make the same model under another version and, if given, with another model-config.yaml.

    An archive without a configuration stays without. Otherwise the same as `variant`.
    """
    changes: dict[str, bytes | Path | None] = {mar.MANIFEST: manifest_of(archive, version)}
    name = archive.manifest["model"].get("configFile")
    if config is not None and name:
        changes[str(name)] = yaml.safe_dump(dict(config), sort_keys=False).encode()
    return variant(archive, target, changes, link=link, force=force)


def manifest_of(archive: Archive, version: str) -> bytes:
    """Return the archive's MANIFEST.json with another version."""
    model = {**archive.manifest["model"], "modelVersion": version}
    return (json.dumps({**archive.manifest, "model": model}, indent=2, sort_keys=True) + "\n").encode()


def files_of(archive: Archive, *, link: bool = False) -> dict[str, bytes | Source]:
    """Return an archive's files just as they were verified: large files in place, with their digests.

    With `link`, a folder's large files may be shared. Raises ArchiveError if one has changed, is missing, or
    was added.
    """
    try:
        with opened(archive.path) as contents:
            if contents.sizes != {file.name: file.size for file in archive.files}:
                raise _changed(archive)
            return {file.name: _content(contents, archive, file, link=link) for file in archive.files}
    except OSError as error:
        raise ArchiveError(f"{archive.path}: could not be read again: {error}") from error


def _content(contents: Verified, archive: Archive, file: FileEntry, *, link: bool) -> bytes | Source:
    if file.size >= SMALL:
        if not isinstance(contents, Zip):
            return replace(Source.of(archive.path / file.name, linkable=link), sha256=file.sha256)
        entry = contents.entry(file.name)
        if entry.method == STORED:
            source = Source.of(archive.path)
            return replace(source, offset=entry.start, size=entry.size, sha256=file.sha256)
    raw = b"".join(contents.blocks(file.name))
    if hashlib.sha256(raw).hexdigest() != file.sha256:
        raise _changed(archive)
    return raw


def _changed(archive: Archive) -> ArchiveError:
    return ArchiveError(f"{archive.path}: it was changed since it was verified; verify it again")
