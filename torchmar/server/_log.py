"""Why a worker died, from TorchServe's model_log.log: the API itself never tells."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

# 2026-11-23T19:53:44,222 [INFO ] W-9000-resnet_1.0-stdout MODEL_LOG - what the worker printed
_LINE = re.compile(r"\S+ \[\w+ *\] W-\d+-(?P<model>.+)-std(?:out|err) MODEL_LOG - (?P<text>.*)")
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(?::\s.*)?")
_CHAINED = ("During handling of the above exception", "The above exception was the direct cause")
# What TorchServe says instead of the reason: it looks for the handler among its own when an import fails,
# and answers a load that raised RuntimeError with a code.
_MASKS = ("No module named 'ts.torch_handler", "500 - Unknown exception", "507 - System out of memory")


class WorkerLog:
    """What workers have printed since this was made (or from the file's beginning, with `whole`)."""

    def __init__(self, path: Path, *, whole: bool = False) -> None:
        self.path = path
        self._offset, self._inode = (0, 0) if whole else self._end()

    def _end(self) -> tuple[int, int]:
        try:
            status = self.path.stat()
        except OSError:
            return 0, 0
        return status.st_size, status.st_ino

    def reason(self, name: str, version: str) -> str | None:
        """The exception that a worker of this version died of; None where none is told."""
        died = False
        raised: list[str] = []
        for text, in_trace in self._traced(f"{name}_{version}"):
            if "Backend worker process died" in text or text.startswith("Failed to load model"):
                died = True
            elif died and in_trace:
                raised.append(text)
        reasons = [text for text in raised if not any(mask in text for mask in _MASKS)]
        return next(iter(reasons or raised), None)

    def _traced(self, model: str) -> Iterator[tuple[str, bool]]:
        """Each line of one version's workers, and whether it is an exception that ends a traceback."""
        in_trace = False
        for text in self._lines(model):
            if text.startswith("Traceback (most recent call last)"):
                in_trace = True
                yield text, False
            elif in_trace and text[:1] not in {"", " "} and not text.startswith(_CHAINED):
                in_trace = False
                yield text, bool(_EXCEPTION.match(text))
            else:
                yield text, False

    def _lines(self, model: str) -> Iterator[str]:
        size, inode = self._end()
        rotated = inode != self._inode or size < self._offset
        try:
            with self.path.open("rb") as file:
                file.seek(0 if rotated else self._offset)
                content = file.read()
        except OSError:
            return
        for line in content.decode("utf-8", errors="replace").splitlines():
            match = _LINE.fullmatch(line)
            if match is not None and match["model"] == model:
                yield match["text"]
