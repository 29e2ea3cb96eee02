"""Find out from TorchServe's logs why a worker died; its API never says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

# 2026-11-23T19:53:44,222 [INFO ] W-9000-resnet_1.0-stdout MODEL_LOG - what the worker printed
_LINE = re.compile(
    r"(?P<time>\S+),(?P<ms>\d{3}) \[\w+ *\] W-(?P<worker>\d+)-(?P<model>.+?)"
    r"(?P<stream>-stdout|-stderr)? (?P<logger>\S+) - (?P<text>.*)"
)
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(?::\s.*)?")
_CHAINED = ("During handling of the above exception", "The above exception was the direct cause")
# TorchServe logs these instead of the reason: after a failed import it looks for the handler among its own,
# and for a load that raised RuntimeError it logs a code.
_MASKS = ("No module named 'ts.torch_handler", "500 - Unknown exception", "507 - System out of memory")
_LOAD_FAILED = ("Failed to load model ", "Load model ")  # the second is logged when memory ran out
_STOPPED_UNLOADED = re.compile(
    r"State change (?!WORKER_MODEL_LOADED|WORKER_SCALED_DOWN)\S+ -> WORKER_STOPPED"
)
_TAIL = 4 * 2**20


class WorkerLog:
    """Reads the logs of a server on this machine; of a long file, the last 4 MiB.

    It needs two files. model_log.log holds what the worker printed, but TorchServe stops reading from a
    process that has ended and may miss its last lines. ts_log.log always records the death.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def why_died(self, name: str, version: str, since: datetime | None = None) -> str | None:
        """Return the exception that killed a worker of this version while it loaded; None if none died.

        Returns '' if a worker died and its last lines are lost. `since` leaves out earlier entries, such as
        those of an earlier registration of the same version. It needs a time zone; the log uses this
        machine's.
        """
        model = f"{name}_{version}"
        dead = self._died_loading(model, since)
        if not dead:
            return None
        after: list[str] = []
        anywhere: list[str] = []
        died = False
        for text, ends_traceback in self._printed(model, dead, since):
            if "Backend worker process died" in text or text.startswith(_LOAD_FAILED):
                died = True
            elif ends_traceback:
                (after if died else anywhere).append(text)
        reasons = [text for text in after if not any(mask in text for mask in _MASKS)]
        return next(iter(reasons or after or anywhere[-1:]), "")

    def _died_loading(self, model: str, since: datetime | None) -> set[str]:
        """Return the workers whose last event is that they ended before they had loaded the model."""
        failed: dict[str, bool] = {}
        for match in self._lines("ts_log.log", model, since):
            worker, text = match["worker"], match["text"]
            if "-> WORKER_MODEL_LOADED" in text:
                failed[worker] = False
            elif text.startswith("Load model failed") or _STOPPED_UNLOADED.search(text):
                failed[worker] = True
        return {worker for worker, has_failed in failed.items() if has_failed}

    def _printed(self, model: str, workers: set[str], since: datetime | None) -> Iterator[tuple[str, bool]]:
        """Yield each line that these workers printed, and whether it is a traceback's last line."""
        tracing: set[tuple[str, str]] = set()
        for match in self._lines("model_log.log", model, since):
            if match["worker"] not in workers:
                continue
            source, text = (match["worker"], match["stream"]), match["text"]
            if text.startswith("Traceback (most recent call last)"):
                tracing.add(source)
                yield text, False
            elif source in tracing and text[:1] not in {"", " "} and not text.startswith(_CHAINED):
                tracing.remove(source)
                yield text, bool(_EXCEPTION.match(text))
            else:
                yield text, False

    def _lines(self, file_name: str, model: str, since: datetime | None) -> Iterator[re.Match[str]]:
        path = self.folder / file_name
        try:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - _TAIL))
                content = file.read()
        except OSError:
            return
        *lines, _ = content.decode("utf-8", errors="replace").split("\n")  # the last line is incomplete
        for line in lines:
            match = _LINE.fullmatch(line.rstrip("\r"))
            if match is not None and match["model"] == model and (since is None or _time(match) >= since):
                yield match


def _time(match: re.Match[str]) -> datetime:
    try:
        time = datetime.strptime(match["time"], "%Y-%m-%dT%H:%M:%S")  # noqa: DTZ007 (local, made so below)
    except ValueError:
        return datetime.min.replace(tzinfo=timezone.utc)
    return time.replace(microsecond=int(match["ms"]) * 1000).astimezone()
