"""Describe a folder with a model.yaml, and choose its files to pack."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Problem, SpecError
from ..handler import HandlerOf
from ..handler_code import ModelCode, handlers
from ..model_files import LARGE, external_data, files_of, matching, requests_in
from ..names import shown
from ..params import UnlikeAWorkers, validated
from ._model import ModelSpec

SPEC_FILE = "model.yaml"

# Limits for data files that nobody listed.
MOST_FILES = 1000
MOST_BYTES = 20_000_000


@dataclass(frozen=True)
class ModelSource:
    """A folder with a model.yaml, and the file's content."""

    directory: Path
    spec: ModelSpec
    file_name: str = SPEC_FILE

    @property
    def file(self) -> Path:
        """Return the model.yaml, whatever its name."""
        return self.directory / self.file_name

    @property
    def handler(self) -> HandlerOf:
        """Return its handler."""
        return HandlerOf(self.spec.handler, self.directory)

    @property
    def has_code(self) -> bool:
        """Return whether its archive runs code of its folder: its handler's, or a module's."""
        eager = self.spec.export_to == "eager" and self.spec.source is not None
        return self.handler.file is not None or eager or self.spec.allow_pickle

    def handler_class(self, model_code: ModelCode) -> type[Any]:
        """Return the class of its BatchHandler; see HandlerOf.load."""
        return self.handler.load(model_code)

    def params(self, kind: type[Any]) -> Any:
        """Return its `params`, as a worker builds them from the archive.

        Raises ValidationError; UnlikeAWorkers for a type that a worker does not build.
        """
        checked = validated(kind.params_type(), self.spec.params)
        params = handlers("params").build_params(kind.params_type(), self.spec.params)
        if params != checked:
            raise UnlikeAWorkers(checked, params)
        return params

    def packed_files(self, kind: type[Any] | None = None) -> list[Path]:
        """Return the folder's files to pack: code, the files that `params` and `files` name, data.

        `kind` is the class of its BatchHandler, if it is one. Raises SpecError if the data is implausibly
        large.
        """
        everything = self.all_files()
        named = [self.directory / name for name in self._named(kind)]
        compress = self.spec.compress
        asked = [self.spec.golden, self.spec.reference, None if compress is None else compress.data]
        requests = [self.directory / name for name in asked if name is not None]
        files = [path for path in everything if not any(path.is_relative_to(one) for one in requests)]
        code = [path for path in files if path.suffix == ".py"] if self.has_code else []
        if self.spec.files is not None:
            listed = [matching(self.directory, everything, pattern) for pattern in self.spec.files]
            data = [path for paths in listed for path in paths]
        elif self.has_code:
            artifacts = {self.directory / name for name in self.spec.artifacts.values()}
            artifacts |= {path for file in artifacts for path in external_data(file)}
            data = [path for path in files if path not in {*code, self.file, *artifacts}]
            data = [path for path in data if path.stat().st_size <= LARGE]
            self._require_few([path for path in data if path not in named])
        else:
            data = []
        found = {*code, *data}
        for path in named:
            found |= {path} if path.is_file() else {each for each in everything if each.is_relative_to(path)}
        known: dict[str, str] = {}
        for path in sorted(found):
            name = path.relative_to(self.directory).as_posix()
            other = known.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
            if other != name:
                what = f"{shown(name)!r} and {shown(other)!r} are one file to some machines"
                raise SpecError(str(self.file), [Problem("files", what, remedy="rename one of them")])
            if not name.isprintable() or "\\" in name:
                what = f"{shown(name)!r} cannot be the name of a file in an archive"
                raise SpecError(str(self.file), [Problem("files", what, remedy="rename it")])
        return sorted(found)

    def _named(self, kind: type[Any] | None) -> list[str]:
        return [] if kind is None else list(self.file_params(kind).values())

    def file_params(self, kind: type[Any]) -> dict[str, str]:
        """Return the files that its `params` name, by the parameter's dotted name."""
        found: dict[str, str] = handlers("params").file_params(kind.params_type(), self.spec.params)
        return found

    def _require_few(self, data: Sequence[Path]) -> None:
        total = sum(path.stat().st_size for path in data)
        if len(data) > MOST_FILES or total > MOST_BYTES:
            what = f"{len(data):,} files of {total:,} bytes would be packed with the code of the model"
            remedy = "list those that it reads: `files: [names.json, assets]`, or `files: []` for none"
            raise SpecError(str(self.file), [Problem("files", what, remedy=remedy)])

    def all_files(self) -> list[Path]:
        """Return every file of the folder that may shape the archive: all except hidden files and caches.

        Raises SpecError if a folder in it is unreadable.
        """
        try:
            return files_of(self.directory)
        except OSError as error:
            raise self.unreadable(error) from None

    def unreadable(self, error: OSError) -> SpecError:
        """Return the error for an unreadable file or folder of the model."""
        what = f"{error.filename or self.directory}: cannot be read: {error.strerror}"
        remedy = "make it readable, or move it out of the model's folder"
        return SpecError(str(self.file), [Problem("", what, remedy=remedy)])

    def golden_files(self) -> list[Path]:
        """Return the golden requests, ordered by name."""
        return [] if self.spec.golden is None else requests_in(self.directory / self.spec.golden)
