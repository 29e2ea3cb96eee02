"""Measure how long requests wait in a version's queue behind real traffic, which is not its fault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..client import Server, total
from ..errors import ClientError
from .ask import Request, send
from .samples import Sample

_LOOKS = 5  # TorchServe answers before it counts, so look again after a moment
_REQUESTS = "ts_inference_requests_total"
_UNPINNED = "default"  # the label of requests without a version


@dataclass(frozen=True)
class _Counted:
    """Counts by version: all its requests, those that named it, and the seconds that the latter waited."""

    all: Mapping[str, float]
    requests: Mapping[str, float]
    seconds: Mapping[str, float]


class Queues:
    """Asks versions of a model and measures each request's time in the queue.

    TorchServe's metrics sum up the waits of requests that name a version, as golden requests do and few
    others. Without metrics, only the length of a queue is known.
    """

    def __init__(self, server: Server, model: str, versions: Sequence[str]) -> None:
        self._server = server
        self._model = model
        self._default = server.management.default_version(model)
        self._described = {version: server.management.describe(model, version) for version in versions}
        self._last = self._counted()
        self._was_calm = dict.fromkeys(versions, True)
        self._was_empty = dict.fromkeys(versions, False)

    def ask(self, version: str, request: Request, timeout: float) -> Sample:
        """Ask a version once.

        A worker itself waits until its batch is full; that wait counts as the version's own. A request in a
        batch with others takes as long as all of them, and nothing shows how many they were, so its queue
        time is unknown.
        """
        sample = send(self._server.inference, self._model, version, request, timeout)
        if not sample.ok:
            return sample
        if self._last is None:
            return replace(sample, waited=self._by_length(version))
        return self._by_metrics(version, sample, self._last)

    def _by_metrics(self, version: str, sample: Sample, before: _Counted) -> Sample:
        now = before
        for _ in range(_LOOKS):
            now = self._counted() or now
            if now.seconds[version] > before.seconds[version]:
                break
        if now.seconds[version] <= before.seconds[version]:
            return replace(sample, waited=None)  # the server's metrics are not TorchServe's own
        self._last = now
        was_calm = self._was_calm[version]
        for one in self._described:
            self._was_calm[one] = now.all[one] - before.all[one] <= (one == version)
        described = self._described[version]
        if described.batch_size > 1 and not (was_calm and self._was_calm[version]):
            return replace(sample, waited=None)
        requests = max(1.0, now.requests[version] - before.requests[version])
        queued = (now.seconds[version] - before.seconds[version]) / requests
        own = described.max_batch_delay / 1000 if described.batch_size > 1 else 0.0
        return replace(sample, waited=max(0.0, queued - own))

    def _by_length(self, version: str) -> float | None:
        """Return 0 if the queue is empty now and was empty at the last look; None otherwise."""
        was_empty = self._was_empty[version]
        pending = self._server.management.describe(self._model, version).queue.pending_requests
        self._was_empty[version] = pending == 0
        return 0.0 if was_empty and pending == 0 else None

    def _counted(self) -> _Counted | None:
        """Return the counts; None if the metrics are unavailable or lack requests."""
        try:
            samples = self._server.metrics.samples()
        except ClientError:
            return None
        if not any(sample.name == _REQUESTS for sample in samples):
            return None
        of_model = {"model_name": self._model}
        asked = {version: {**of_model, "model_version": version} for version in self._described}
        requests = {version: total(samples, _REQUESTS, labels) for version, labels in asked.items()}
        unpinned = total(samples, _REQUESTS, {**of_model, "model_version": _UNPINNED})
        return _Counted(
            {one: count + (unpinned if one == self._default else 0) for one, count in requests.items()},
            requests,
            {
                version: total(samples, "ts_queue_latency_microseconds", labels) / 1e6
                for version, labels in asked.items()
            },
        )
