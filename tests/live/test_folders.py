"""An archive as a folder: TorchServe serves it from the model store, in place."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from torchmar import mar, pack
from torchmar.errors import ModelNotFound

from .servers import ROOT, Live

PICTURE = ROOT / "tests/models/tiny/golden/noise.png"


def test_a_folder_is_registered_unregistered_and_registered_again(server: Live, tiny_folders: Path) -> None:
    """Nothing is unpacked, the answers are those of the .mar, and what is in the store stays as it is."""
    stored = server.store / "tiny-2.0"
    shutil.copytree(tiny_folders / "tiny-2.0", stored)
    before = mar.verify(stored)
    for _ in range(2):
        server.management.register("tiny-2.0")
        model = server.management.wait_until_ready("tiny", "2.0")
        assert len(server.inference.predict("tiny", PICTURE).json()) == 3
        assert Path(f"/proc/{model.workers[0].pid}/cwd").resolve() == stored
        server.management.unregister("tiny", "2.0")
        server.management.wait_until_gone("tiny", "2.0")
        assert mar.verify(stored) == before


def test_versions_of_a_folder_and_of_a_mar_live_together(
    server: Live, tiny_folders: Path, tiny_eager: Path
) -> None:
    """The form is no matter to who asks."""
    shutil.copytree(tiny_folders / "tiny-2.0", server.store / "tiny-2.0", dirs_exist_ok=True)
    server.serve(server.put(tiny_eager), "1.0")
    server.management.register("tiny-2.0")
    server.management.wait_until_ready("tiny", "2.0")
    answers = [server.inference.predict("tiny", PICTURE, version=v).json() for v in ("1.0", "2.0")]
    assert answers[0][0]["label"] == answers[1][0]["label"]
    server.management.set_default("tiny", "2.0")
    server.management.unregister("tiny", "1.0")
    with pytest.raises(ModelNotFound):
        server.inference.predict("tiny", PICTURE, version="1.0")
    server.management.unregister("tiny", "2.0")


def test_workers_map_the_weights_once(server: Live, tiny_onnx: Path) -> None:
    """Both real workers have the same file of weights in their memory maps, and answer from it."""
    archive = mar.verify(tiny_onnx)
    workers = {"minWorkers": 2, "maxWorkers": 2}
    config = {**archive.config, **workers, "handler": {**archive.config["handler"], "workers": 2}}
    pack.reversioned(archive, server.store / "tiny-7.0", "7.0", config)
    server.management.register("tiny-7.0")
    described = server.management.wait_until_ready("tiny", "7.0", workers=2)
    assert len(server.inference.predict("tiny", PICTURE, version="7.0").json()) == 3
    one, other = (weights_mapped(worker.pid) for worker in described.workers)
    assert len(one) == 1
    assert one == other
    server.management.unregister("tiny", "7.0")
    server.management.wait_until_gone("tiny", "7.0")


def weights_mapped(pid: int) -> set[tuple[str, str]]:
    """Device and inode of each file of weights that a process has mapped."""
    lines = [line.split(maxsplit=5) for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    return {(f[3], f[4]) for f in lines if len(f) == 6 and f[5].endswith(".onnx.data")}
