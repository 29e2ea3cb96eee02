"""Archives of a few lines, as strangers make them."""

from __future__ import annotations

import json
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.live.servers import STAND_IN

FUNCTION = "def handle(data, context):\n    return None if data is None else ['function'] * len(data)\n"

# Answers the index that a request's body holds.
ECHO = """
import json
def handle(data, context):
    if data is None:
        return
    text = bytes(data[0]["body"]).decode()
    if text == "teapot":
        context.set_response_status(418, "teapot")
    return [text if text in ("teapot", "[]", "{}") else [{"index": int(text), "label": "x"}]]
"""

# Runs each request's body, Python that may set `answer` and use `context` and `index`.
DOES_AS_TOLD = """
def handle(data, context):
    if data is None:
        return
    answers = []
    for index, row in enumerate(data):
        scope = {"context": context, "index": index}
        exec(row["body"].decode(), scope)
        answers.append(scope.get("answer", "x"))
    return answers
"""

Folder = Callable[..., Path]


def write_folder(
    path: Path, code: str | None, handler: str | None, files: dict[str, str] | None, model: dict[str, Any]
) -> Path:
    """What an unpacked archive is: a manifest, a handler, other files by their path."""
    manifest = {"model": {"modelName": "m", **({"handler": handler} if handler else {}), **model}}
    contents = {"MAR-INF/MANIFEST.json": json.dumps(manifest), **(files or {})}
    if code is not None:
        contents["handler.py"] = textwrap.dedent(code)
    for name, content in contents.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content)
    return path


def pack(path: Path, *, plain: bool = False) -> Path:
    """A folder as a .mar beside it; unless it is `plain`, with what keeps its worker from importing torch."""
    target = path.with_suffix(".mar")
    with zipfile.ZipFile(target, "w") as archive:
        there = [file for file in sorted(path.rglob("*")) if "__pycache__" not in file.parts]
        names = {file.relative_to(path).as_posix(): file for file in there}
        for name, file in names.items():
            archive.write(file, name)
        for name, content in STAND_IN.items():
            if not plain and name not in names:
                archive.writestr(name, content)
    return target


def golden(answers: dict[str, Any], **requests: str) -> dict[str, str]:
    """Golden requests with what must be answered to them."""
    files = {f"MAR-INF/golden/{name}": content for name, content in requests.items()}
    return {**files, "MAR-INF/golden/answers.json": json.dumps(answers)}
