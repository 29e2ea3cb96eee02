"""Drain a version: wait until it has nothing left to answer, and only then take it away.

TorchServe's own DELETE kills the workers at once: what they have in hand fails, what waits in the queue is
never answered. So a version is drained first: it is no longer the default, nobody asks for it by name, its
queue is empty, and as much time has gone by as its last answer can take.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..client import ModelVersion, Server, total
from ..errors import ClientError, ReleaseError
from ._pace import WaitPolicy

_INTERVAL = 0.1  # seconds between two looks
_CALM = 5  # looks in a row that must find nothing, however short the longest answer
_URLS = ("http://", "https://", "file://")  # as TorchServe's ArchiveUtils knows them
_REQUESTS = "ts_inference_requests_total"

UNSEEN = "whether somebody asked for it by its number could not be seen"


@dataclass(frozen=True)
class Drained:
    """Holds how a version was drained: in `seconds`, of which `longest` passed after its last sign of work.

    `pinned_seen` is False where the server's metrics do not show who asks for the version by name: then only
    time has passed. `archive_removed` is True of a version that was registered by a URL: with it TorchServe
    deletes the archive from the model store, and there is no way back to it.
    """

    model: str
    version: str
    seconds: float
    longest: float
    pinned_seen: bool
    archive_removed: bool = False


def drain(server: Server, model: str, version: str, pace: WaitPolicy = WaitPolicy()) -> Drained:  # noqa: B008 (frozen)
    """Wait until a version that is not the default has nothing left to answer.

    Raises ReleaseError where it is the default, where clients go on to ask for it by name, or where its queue
    does not empty.

    The wait cannot end early: no figure of TorchServe counts what workers have in hand. It counts arrivals
    (ts_inference_requests_total, per version as it was asked for), but no answers:
    ts_inference_latency_microseconds adds up microseconds, Requests2XX and its like count the answers of all
    models and APIs together, and neither sees a client that went away.
    """
    start = pace.clock()
    tells = has_version_metrics(server)
    first = count = requests_to_version(server, model, version) if tells else 0.0
    calm, quiet_since = 0, start
    while True:
        described = _require_not_default(server, model, version)
        asked = requests_to_version(server, model, version) if tells else count
        now = pace.clock()
        if asked != count or described.queue.pending_requests:
            if now - start > pace.timeout:
                rate = (asked - first) / (now - start) if asked != count else 0.0
                raise ReleaseError(_why_busy(server, described, rate, pace.timeout))
            count, calm = asked, 0
        else:
            # Count from the first calm look: what was in the queue one look earlier is in hand now.
            quiet_since = quiet_since if calm else now
            calm += 1
            longest = described.answer_bound if pace.longest is None else pace.longest
            hold = longest if described.ready_workers else 0.0  # without a READY worker nothing is in hand
            if calm >= _CALM and now - quiet_since >= hold:
                by_url = described.archive.lower().startswith(_URLS)
                return Drained(model, version, now - start, hold, tells, archive_removed=by_url)
        pace.sleep(_INTERVAL)


def drain_and_unregister(
    server: Server,
    model: str,
    version: str,
    pace: WaitPolicy = WaitPolicy(),  # noqa: B008 (frozen)
    what: str = "",
) -> Drained:
    """Drain a version and unregister it. Its archive stays in the model store.

    Raises what `drain` does. Steps: drain, unregister; `what` is added to their names.
    """
    pace.on_step(f"drain{what}")
    found = drain(server, model, version, pace)
    pace.on_step(f"unregister{what}")
    server.management.take_away(model, version)
    return found


def _require_not_default(server: Server, model: str, version: str) -> ModelVersion:
    described = server.management.describe(model, version)
    if server.management.default_version(model) == version:
        raise ReleaseError(
            f"{model} {version}: is the default version, so it cannot be drained; make another one the "
            f"default first: torchmar set-default {model} VERSION"
        )
    return described


def has_version_metrics(server: Server) -> bool:
    """Return whether the metrics show which version is asked for: at a known address, in prometheus mode."""
    try:
        return _REQUESTS in server.metrics.text()  # in its comments, where nobody asked yet
    except ClientError:
        return False


def requests_to_version(server: Server, model: str, version: str) -> float:
    """Return how often a version was ever asked for by name; requests without a version do not count."""
    asked = {"model_name": model, "model_version": version}
    return total(server.metrics.samples(), _REQUESTS, asked)


def _why_busy(server: Server, described: ModelVersion, rate: float, timeout: float) -> str:
    model, version = described.name, described.version
    if rate:
        try:
            where = server.inference.address
        except ClientError:
            where = ""
        return (
            f"{model} {version}: clients still ask for it by name after {timeout:g} s, {rate:.2g} requests a "
            f"second to {where}/predictions/{model}/{version}; have them ask for "
            f"{where}/predictions/{model}, then try again"
        )
    pending = described.queue.pending_requests
    what = f"{model} {version}: {pending} requests still wait in its queue after {timeout:g} s"
    if described.ready_workers:
        return f"{what}, and clients send more: give it more time, or more workers"
    return f"{what}, and it has no READY worker to answer them: torchmar repair {model}"
