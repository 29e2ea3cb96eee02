"""Does the work of one request without a server: it calls an unpacked archive's handler as TorchServe does.

All systems do the same work by this code: the other servers' apps call `Work.answer`, and so does the plain
loop that is the limit. The module needs the handler's packages (numpy, Pillow, ONNX Runtime), and neither
torchmar nor PyYAML.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ARCHIVE = "BENCH_ARCHIVE"
"""The variable that names the folder for an app to serve; empty for the no-op."""

CONFIG = "model-config.json"
"""The archive's model-config.yaml as JSON, which the harness puts beside it."""

NOOP_ANSWER = b'{"ok": true}'


class _Context:
    """Stands for the part of TorchServe's context that handlers use."""

    def __init__(self, folder: Path) -> None:
        self.model_yaml_config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        self.manifest: dict[str, Any] = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text("utf-8"))
        self.model_name = self.manifest["model"]["modelName"]
        batch_size = self.model_yaml_config.get("batchSize", 1)
        self.system_properties = {"model_dir": str(folder), "gpu_id": None, "batch_size": batch_size}
        self.statuses: dict[int, int] = {}

    def get_request_id(self, idx: int = 0) -> str:
        """Return an id in place of the frontend's."""
        return str(idx)

    def get_request_header(self, idx: int, key: str) -> None:  # noqa: ARG002
        """Return no header."""
        return

    def get_all_request_header(self, idx: int) -> dict[str, str]:  # noqa: ARG002
        """Return no headers."""
        return {}

    def set_response_content_type(self, idx: int, value: str) -> None:
        """Ignore the type: the apps answer JSON."""

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        """Ignore the header: the apps send none."""

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:  # noqa: ARG002
        """Keep the status: the answer to a photograph must be a good one."""
        self.statuses[idx] = code


class Work:
    """Holds a handler that is loaded in this process."""

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        folder = folder.resolve()
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))  # the archive's handlers, and its model_source
        self._context = _Context(folder)
        self.handler: Any = _handler_class(str(self._context.manifest["model"]["handler"]))()
        self.handler.initialize(self._context)

    def answer(self, picture: bytes) -> bytes:
        """Decode, infer and encode, as TorchServe's worker does for a batch of one."""
        self._context.statuses.clear()
        [text] = self.handler.handle([{"body": picture}], self._context)
        if self._context.statuses.get(0, 200) != 200:
            raise ValueError(f"status {self._context.statuses[0]}: {text}")
        return text.encode() if isinstance(text, str) else bytes(text)


def _handler_class(module_name: str) -> Callable[[], Any]:
    """Return the handler of a module as TorchServe's loader does: its only own class with `handle`."""
    module = importlib.import_module(module_name.removesuffix(".py"))
    found: list[Callable[[], Any]] = [
        kind
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if kind.__module__ == module.__name__ and hasattr(kind, "handle")
    ]
    if len(found) != 1:
        raise ValueError(f"{module_name}: expected one handler, found {found}")
    return found[0]


def from_environment() -> Callable[[bytes], bytes]:
    """Return the work of an app for a body: the archive's, or nothing."""
    folder = os.environ.get(ARCHIVE, "")
    return Work(Path(folder)).answer if folder else _nothing


def _nothing(_body: bytes) -> bytes:
    return NOOP_ANSWER
