"""Keep what was measured in a file, by the inputs of each measurement: a search that was ended goes on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

from ... import __version__
from ...dataset import digest, read_dataset
from ...errors import DatasetError
from ...export import Weights, toolchain
from ...files import replace_file
from ...mar import file_sha256
from ...measure.machine import processor
from ...spec import ModelSource
from ._points import Point
from ._trial import Trial

_FORMAT = 1


class Results:
    """The trials of a file, by key. Raises DatasetError if it holds something else."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._trials: dict[str, Trial] = {}
        try:
            found = json.loads(file.read_bytes())
            if found["format"] == _FORMAT:
                self._trials = {key: Trial.from_json(one) for key, one in found["trials"].items()}
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            what = f"it holds no results of a search: {error}"
            raise DatasetError(f"{file}: remove it, or name another file by --results: {what}") from None

    def get(self, key: str) -> Trial | None:
        """Return what is known."""
        return self._trials.get(key)

    def keep(self, key: str, trial: Trial) -> None:
        """Add a trial to the file at once. Raises DatasetError."""
        self._trials[key] = trial
        content = {"format": _FORMAT, "trials": {k: asdict(one) for k, one in self._trials.items()}}
        try:
            replace_file(self.file, (json.dumps(content, indent=1) + "\n").encode())
        except OSError as error:
            what = f"cannot be written: {error.strerror}"
            raise DatasetError(f"{self.file}: name another file by --results: {what}") from None


class Keys:
    """Makes the keys of a model's points: whatever shapes a measurement changes them.

    Neither model.yaml's own `compress` nor its version does, so that results outlive the choice.
    """

    def __init__(self, source: ModelSource, weights: Weights, seconds: float) -> None:
        assert source.spec.compress is not None
        self._source = source
        named = [source.spec.compress.data, source.spec.compress.train]
        files = [*source.all_files(), *source.golden_files()]
        self._facts = {
            "torchmar": __version__,
            "toolchain": toolchain(source),
            "processor": processor(),
            "seconds": seconds,
            "weights": [weights.origin if weights.file is None else file_sha256(weights.file), weights.seed],
            "data": [digest(read_dataset(source.directory / name)) for name in named if name is not None],
            "files": sorted((file.name, file_sha256(file)) for file in files if file != source.file),
        }

    def of(self, point: Point) -> str:
        """Return the key of a point: a SHA-256."""
        given = self._source.spec.compress
        assert given is not None
        spec = replace(self._source.spec, compress=point.compress(given), version="", description="")
        content = json.dumps([asdict(spec), point.mixed, self._facts], sort_keys=True, default=str)
        return hashlib.sha256(content.encode()).hexdigest()
