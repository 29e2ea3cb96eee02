"""Archives to be released: a model that answers from a table, good in its first version, bad in others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from torchmar import mar, pack
from torchmar.mar import FileEntry
from torchmar.release import Fleet, Host, Options

from .servers import STAND_IN, Live

LABELS = {"a": "cat", "b": "dog", "c": "emu"}

_HANDLER = """\
import json, os, time
{prelude}
LABELS = {labels!r}

def handle(data, context):
    if data is None:
        return None
    answers = []
    for row in data:
        body = row.get("body") or row.get("data")
        asked = json.loads(body) if isinstance(body, (bytes, bytearray)) else body
        time.sleep({seconds} + asked.get("sleep", 0))
        {act}
        # As handlers/image_classifier.py answers; the class that comes second says which version it was.
        classes = (LABELS[asked["key"]], 0.9), ("version {version}", 0.1)
        rows = [{{"label": label, "index": len(label), "probability": share}} for label, share in classes]
        answers.append(json.dumps(rows))
    return answers
"""

# The gate may take its time: on a machine that is busy it needs more samples, and ends when it can tell.
QUICK = Options(samples=24, gate_seconds=30.0, max_slowdown=2.0, watch=0.4, longest=0.2, ready_timeout=30.0)
# Where the gate is not what is tested: too few requests to tell, and promoted all the same.
UNJUDGED = replace(QUICK, samples=3, watch=0.01, promote_inconclusive=True)


def candidate(
    folder: Path,
    name: str,
    version: str,
    *,
    labels: Mapping[str, str] = LABELS,
    expected: Mapping[str, str] | None = None,
    seconds: float = 0.002,
    prelude: str = "",
    act: str = "pass",
    config: Mapping[str, Any] | None = None,
    padding: int = 0,
    golden: bool = True,
) -> Path:
    """NAME-VERSION.mar with three golden requests. `prelude` runs at import, `act` with each request.

    `padding` is a number of bytes that the archive holds besides.
    """
    text = _HANDLER.format(prelude=prelude, labels=dict(labels), seconds=seconds, act=act, version=version)
    model = {"modelName": name, "modelVersion": version, "handler": f"{name}_handler.py"}
    settings = {"minWorkers": 1, "maxWorkers": 1, "maxRetryTimeoutInSec": 0, "responseTimeout": 5}
    contents: dict[str, Any] = {
        mar.MANIFEST: json.dumps({"runtime": "python", "model": {**model, "configFile": "m.yaml"}}).encode(),
        "m.yaml": yaml.safe_dump({**settings, **(config or {})}).encode(),
        f"{name}_handler.py": text.encode(),
    }
    if golden:
        answers = {f"{key}.json": {"label": label} for key, label in (expected or labels).items()}
        contents[mar.GOLDEN_ANSWERS] = json.dumps(answers).encode()
        contents |= {f"{mar.GOLDEN}/{key}.json": json.dumps({"key": key}).encode() for key in LABELS}
    # Which version answered is told in the second row.
    contents[mar.COMPARE] = b'{"kind": "first", "by": ["label", "index"]}'
    contents |= STAND_IN
    if padding:
        contents["padding"] = bytes(padding)
    contents[mar.DIGESTS] = mar.listing(_entry(name, content) for name, content in contents.items())
    path = folder / f"{name}-{version}.mar"
    path.unlink(missing_ok=True)
    pack.write(contents, path)
    return path


def _entry(name: str, content: bytes) -> FileEntry:
    import hashlib

    return FileEntry(name, len(content), hashlib.sha256(content).hexdigest())


def fleet_of(live: Live, journal: Path, **changes: Any) -> Fleet:
    """A site with this server alone."""
    return Fleet((host_of(live),), journal, **changes)


def host_of(live: Live, name: str = "local") -> Host:
    """A server as a release sees it."""
    return Host(name, live.clients, live.store, local=True)


def ask(live: Live, name: str, key: str = "a", version: str | None = None, **more: Any) -> dict[str, Any]:
    """The label of the answer, and which version it is from."""
    return told_by(live.inference.predict(name, {"key": key, **more}, version=version).json())


def told_by(rows: Any) -> dict[str, Any]:
    """As `ask`, of the content of an answer."""
    first, second = rows
    return {"label": first["label"], "version": second["label"].removeprefix("version ")}
