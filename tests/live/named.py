"""Archives whose manifest names a model as nobody should."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from .servers import STAND_IN

ECHO = """
def handle(data, context):
    return None if data is None else [text(row.get("body") or "") for row in data]

def text(body):
    return body if isinstance(body, str) else bytes(body).decode()
"""


def make_named(store: Path, file: str, name: str, version: str = "1.0") -> Path:
    """An archive in `store` under any file name, of a model that echoes, with this name and version."""
    path = store / file
    with zipfile.ZipFile(path, "w") as mar:
        model = {"modelName": name, "modelVersion": version, "handler": "echo.py", "configFile": "c.yaml"}
        mar.writestr("MAR-INF/MANIFEST.json", json.dumps({"runtime": "python", "model": model}))
        mar.writestr("c.yaml", "maxRetryTimeoutInSec: 0\n")
        mar.writestr("echo.py", ECHO)
        for stand_in, content in STAND_IN.items():
            mar.writestr(stand_in, content)
    return path
