"""Makes the archive for the proof of releases: its handler records each request that it executes."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import yaml

from torchmar import mar

ROOT = Path(__file__).resolve().parent.parent
NAME = "proof"
LAZY_TORCH = ROOT / "handlers" / "worker" / "lazy_torch.py"

# Each request gets a line before its work: one that is killed halfway and run again has two.
_HANDLER = """\
import json, os, time

def handle(data, context):
    if data is None:
        return None
    proof = context.model_yaml_config["proof"]
    version, pid = context.manifest["model"]["modelVersion"], os.getpid()
    ids = [json.loads(bytes(row.get("body") or row.get("data")))["id"] for row in data]
    file = os.open(os.path.join(proof["folder"], str(pid)), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, "".join(f"{id} {version} {pid}\\n" for id in ids).encode())
    os.close(file)
    time.sleep(proof["work_ms"] / 1000)
    return [{"id": id, "version": version, "pid": pid} for id in ids]
"""

# As in the archives that torchmar builds: without torch, which no handler here needs, a worker starts fast.
SITECUSTOMIZE = "from lazy_torch import install\n\ninstall()\n"


def make(store: Path, version: str, folder: Path, *, workers: int = 1, work_ms: float = 20.0) -> Path:
    """Put the archive of a version into the store; its handler writes into `folder`."""
    config = {
        "minWorkers": workers,
        "maxWorkers": workers,
        "batchSize": 4,
        "maxBatchDelay": 2,
        "responseTimeout": 10,
        "maxRetryTimeoutInSec": 30,
        "proof": {"folder": str(folder), "work_ms": work_ms},
    }
    model = {
        "modelName": NAME,
        "modelVersion": version,
        "handler": "proof.py",
        "configFile": "model-config.yaml",
    }
    target = store / f"{NAME}-{version}.mar"
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"runtime": "python", "model": model}))
        archive.writestr(f"{mar.GOLDEN}/one", json.dumps({"id": "golden"}))
        archive.writestr("model-config.yaml", yaml.safe_dump(config))
        archive.writestr("proof.py", _HANDLER)
        archive.writestr("sitecustomize.py", SITECUSTOMIZE)
        archive.write(LAZY_TORCH, "lazy_torch.py")
    return target


def executed(folder: Path) -> list[str]:
    """Return the id of each request, as often as it was executed."""
    lines = [line for file in folder.iterdir() for line in file.read_text("ascii").splitlines()]
    return [line.split(" ")[0] for line in lines]
