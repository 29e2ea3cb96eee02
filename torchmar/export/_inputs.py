"""Record the inputs of an artifact, also to tell whether it is up to date."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..dataset import digest as data_digest
from ..dataset import read_dataset
from ..errors import WeightsUnavailable
from ..mar import GOLDEN, file_sha256
from ..spec import ModelSource
from ._weights import Weights


def toolchain(source: ModelSource) -> dict[str, str]:
    """Return the versions that shape the artifact, for the archive's record."""
    names = ["numpy", "onnx", "onnxruntime", "onnxscript", "Pillow", "torch", "torchvision"]
    names += re.findall(r"^[A-Za-z0-9][\w.-]*", "\n".join(source.spec.requirements), re.MULTILINE)
    found: dict[str, str] = {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for name in sorted(set(names)):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def inputs_digest(source: ModelSource, weights: Weights, weights_sha256: str | None = None) -> str:
    """Return the SHA-256 over everything that shapes the archive; any change to that changes the digest.

    It covers every file of the model's folder, the golden requests, the spec with its overrides, the weights'
    file, and the toolchain's versions. `weights_sha256` is the digest of the weights' file if known;
    otherwise the file is read. It needs no torch, so an archive that is up to date is recognised at once.
    """
    digest = hashlib.sha256()
    facts = {
        "spec": asdict(source.spec),
        "weights": weights.origin if weights.file is None else weights_sha256 or _of_weights(weights.file),
        "seed": weights.seed,
        "toolchain": toolchain(source),
    }
    compress = source.spec.compress
    for key, data in (("data", compress and compress.data), ("reference", source.spec.reference)):
        if data:  # a table may name files that lie elsewhere
            facts[key] = data_digest(read_dataset(source.directory / data))
    digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
    named = {path.relative_to(source.directory).as_posix(): path for path in source.all_files()}
    named |= {f"{GOLDEN}/{path.name}": path for path in source.golden_files()}
    for name, path in named.items():
        try:
            digest.update(f"\n{name} {file_sha256(path)}".encode(errors="surrogateescape"))
        except OSError as error:
            raise source.unreadable(error) from None
    return digest.hexdigest()


def _of_weights(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise WeightsUnavailable(f"--weights {path}: {error.strerror} (or write `random`)") from None
