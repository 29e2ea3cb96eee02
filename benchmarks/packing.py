"""Measures a large archive: packing VGG-16 against `cp` and torch-model-archiver, and registering each form.

The state dict (553 MB) lies in the page cache; it is random, and deflates as little as trained weights do.
Each run takes every way once, in turn, into an empty folder of one disk, after `sync`. "on disk" includes
fsync, or `sync FILE` after `cp`. "known" is a state dict whose digest was computed before, as `torchmar
archive --weights FILE` does while it imports torch. Registering is the call alone, without a worker: the time
that TorchServe takes to unpack.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torchmar import pack
from torchmar.pack import Source

from . import archives
from .report import spread
from .systems.torchserve import OURS, clients

HANDLER = "def handle(data, context):\n    return [None] * len(data or [])\n"
MANIFEST = {
    "runtime": "python",
    "model": {"modelName": "vgg16", "modelVersion": "1.0", "handler": "h:handle"},
}
DEFLATING_RUNS = 2  # half a minute each

Seconds = dict[str, list[float]]
Way = Callable[[Path], None]

_WRITE_STATE_DICT = """\
import sys, torch, torchvision
torch.manual_seed(0)
torch.save(torchvision.models.vgg16(weights=None).state_dict(), sys.argv[1])
"""


def state_dict(store: Path) -> Path:
    """Return the file of VGG-16's state dict, which is written once."""
    weights = store / "vgg16.pth"
    if not weights.exists():
        beside = weights.with_suffix(".tmp")
        subprocess.run([sys.executable, "-c", _WRITE_STATE_DICT, str(beside)], check=True)
        beside.replace(weights)
    return weights


# -- packing ------------------------------------------------------------------------------------


def pack_times(weights: Path, runs: int) -> dict[str, Any]:
    """Measure the seconds of each way to get the weights into a store."""
    new, known = Source.of(weights), Source.of(weights).digested()
    ways: dict[str, Way] = {}
    for what, sync in (("", False), (", on disk", True)):
        ways[f"cp{what}"] = _cp(weights, sync=sync)
        ways[f"torchmar .mar{what}"] = _ours(new, "vgg16-1.0.mar", sync=sync)
        ways[f"torchmar .mar, known{what}"] = _ours(known, "vgg16-1.0.mar", sync=sync)
        ways[f"torchmar folder{what}"] = _ours(new, "vgg16-1.0", sync=sync)
        ways[f"torchmar folder, known{what}"] = _ours(known, "vgg16-1.0", sync=sync)
        ways[f"torch-model-archiver, zip-store{what}"] = _archiver(weights, "zip-store", sync=sync)
    seconds = _in_turn(ways, runs, weights.parent)
    deflating = {"torch-model-archiver, default": _archiver(weights, "default", sync=False)}
    seconds.update(_in_turn(deflating, min(runs, DEFLATING_RUNS), weights.parent))
    return {name: spread(values) for name, values in seconds.items()}


def _in_turn(ways: dict[str, Way], runs: int, disk: Path) -> Seconds:
    seconds: Seconds = {name: [] for name in ways}
    for _ in range(runs):
        for name, way in ways.items():
            with tempfile.TemporaryDirectory(dir=disk) as folder:
                os.sync()
                begin = time.perf_counter()
                way(Path(folder))
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def _cp(weights: Path, *, sync: bool) -> Way:
    def way(folder: Path) -> None:
        subprocess.run(["cp", str(weights), str(folder / "copy")], check=True)
        if sync:
            subprocess.run(["sync", str(folder / "copy")], check=True)

    return way


def _ours(source: Source, name: str, *, sync: bool) -> Way:
    contents = _contents(source)

    def way(folder: Path) -> None:
        with pack.beside(folder / name) as temporary:
            pack.write(contents, temporary, target=folder / name, sync=sync)
            if sync:
                pack.publish(temporary, folder / name, force=False)
            else:
                temporary.rename(folder / name)

    return way


def _contents(weights: Source) -> dict[str, bytes | Source]:
    """Return contents close to an archive's: handlers, manifest, configuration and weights."""
    handlers = archives.ROOT / "handlers"
    return {
        **{f"handlers/{path.name}": path.read_bytes() for path in handlers.glob("*.py")},
        "MAR-INF/MANIFEST.json": json.dumps(MANIFEST).encode(),
        "model-config.yaml": b"minWorkers: 0\nmaxWorkers: 0\n",
        "h.py": HANDLER.encode(),
        "vgg16.pth": weights,
    }


def _archiver(weights: Path, form: str, *, sync: bool) -> Way:
    """Pack as torch-model-archiver's documentation says; it works in <temporary folder>/vgg16."""

    def way(folder: Path) -> None:
        (folder / "h.py").write_text(HANDLER, encoding="utf-8")
        temporary = folder / "tmp"
        temporary.mkdir()
        options = ["--serialized-file", str(weights), "--handler", str(folder / "h.py")]
        made = archives.with_archiver(
            Path(sys.executable),
            "vgg16",
            folder,
            *options,
            "--archive-format",
            form,
            environment={**os.environ, "TMPDIR": str(temporary)},
        )
        if sync:
            subprocess.run(["sync", str(made)], check=True)

    return way


# -- registering --------------------------------------------------------------------------------


def register_times(weights: Path, runs: int) -> dict[str, Any]:
    """Measure the seconds of registering each form of the archive without a worker. Raises Failed."""
    with tempfile.TemporaryDirectory(prefix="torchmar-bench-", dir=weights.parent) as temporary:
        store = Path(temporary) / "model_store"
        store.mkdir()
        names = list(_archives(weights, store))
        seconds: Seconds = {name: [] for name in names}
        with OURS.running(Path(temporary), store, {}) as server, clients(server) as connected:
            for _ in range(runs):
                for name in names:
                    os.sync()
                    begin = time.perf_counter()
                    connected.management.register(name, name="vgg16", initial_workers=0)
                    seconds[name].append(time.perf_counter() - begin)
                    connected.management.unregister("vgg16")
    return {name: spread(values) for name, values in seconds.items()}


def _archives(weights: Path, store: Path) -> Iterable[str]:
    """Write the model in each form, and yield the names in the store."""
    for form in ("default", "zip-store"):
        with tempfile.TemporaryDirectory(dir=store.parent) as folder:
            _archiver(weights, form, sync=False)(Path(folder))
            (Path(folder) / "vgg16.mar").rename(store / f"archiver-{form}.mar")
        yield f"archiver-{form}.mar"
    contents = _contents(Source.of(weights))
    for name in ("torchmar.mar", "torchmar-folder"):
        with pack.beside(store / name) as built:
            pack.write(contents, built, target=store / name)
            pack.publish(built, store / name, force=False)
        yield name
