"""Change the number of workers, without losing what they have in hand."""

from __future__ import annotations

from pathlib import Path

from ..client import ModelVersion, Server
from ..errors import ReleaseError
from ._drain import drain
from ._pace import WaitPolicy
from ._standby import end_standby, standby_for, stood_in_for


def scale(
    server: Server,
    store: Path,
    model: str,
    workers: int,
    pace: WaitPolicy = WaitPolicy(),  # noqa: B008 (frozen)
    *,
    version: str | None = None,
) -> ModelVersion:
    """Give a version, by default the default one, this many workers, and wait until all are READY.

    More start beside the others. For fewer the version is made idle first: TorchServe kills the newest at
    once, and what they had in hand runs twice or fails. For the default version a standby made of its archive
    in `store`, the server's model store, answers meanwhile; it has as many workers, and needs memory for
    them.

    Raises ReleaseError for no workers of the default version, where the archive is not in the store, and
    where clients go on asking for the version by name; WorkersNotReady, ArchiveError, ClientError. The
    version is the default again then. Steps: those of `standby`, and drain, scale.
    """
    version = stood_in_for(version or server.management.default_version(model))
    end_standby(server, store, model, version, pace)  # of an act that was interrupted
    described = server.management.describe(model, version)
    default = server.management.default_version(model) == version
    if default and workers < 1:
        raise ReleaseError(
            f"{model} {version}: is the default version: without a worker every request would get 503; "
            "make another one the default first, or give it a worker"
        )
    if workers >= len(described.workers):
        return scaled(server, described, workers, pace)
    if not default:
        return _scaled_idle(server, described, workers, pace)
    with standby_for(server, store, described, workers, pace):
        return _scaled_idle(server, described, workers, pace)


def _scaled_idle(server: Server, described: ModelVersion, workers: int, pace: WaitPolicy) -> ModelVersion:
    pace.on_step("drain")
    drain(server, described.name, described.version, pace)
    return scaled(server, described, workers, pace)


def scaled(server: Server, described: ModelVersion, workers: int, pace: WaitPolicy) -> ModelVersion:
    """See `scale`, of a version that is idle or gets more. Step: scale."""
    model, version = described.name, described.version
    pace.on_step("scale")
    return server.management.bring_up(described.archive, model, version, workers)
