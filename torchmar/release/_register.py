"""A version that a server is to have: registered, and its workers waited for; on the way there and back."""

from __future__ import annotations

from typing import Any

from ..client import ModelVersion
from ..errors import ReleaseError, TimedOut
from ..server import unpacking
from ._host import Host, observe
from .workers import Pace

_PAUSE = 0.2  # seconds between two looks


class StillSilent(ReleaseError):
    """A server was told to register a version, and may be at it still."""


def register(
    host: Host, model: str, version: str, archive: str, workers: int, pace: Pace, **more: Any
) -> None:
    """Register an archive of the store; `more` is for the call. A server that is silent is waited for.

    Raises AlreadyRegistered, ClientError; StillSilent where it neither answers nor has the version in time.
    """
    try:
        with unpacking(host.running, archive):
            host.server.management.register(archive, initial_workers=workers, **more)
    except TimedOut:  # a large archive takes long to unpack
        if not appears(host, model, version, pace):
            raise StillSilent(
                f"{host.name} has neither answered nor registered {model} {version} within "
                f"{pace.timeout:g} s: see ts_log.log on the server; should it appear later, "
                f"`torchmar unregister {model} {version}` takes it away"
            ) from None


def appears(host: Host, model: str, version: str, pace: Pace) -> bool:
    """Whether a server that may be unpacking a version has it before `pace.timeout` is over."""
    begin = pace.clock()
    while not _has(host, model, version):
        if pace.clock() - begin > pace.timeout:
            return False
        pace.sleep(_PAUSE)
    return True


def _has(host: Host, model: str, version: str) -> bool:
    try:
        return observe(host.server, model).get(version) is not None
    except TimedOut:  # it may be busy with just that
        return False


def wait_ready(host: Host, model: str, version: str, workers: int, pace: Pace) -> ModelVersion:
    """Until exactly so many workers are READY. Raises WorkersNotReady with the worker's own reason."""
    management = host.server.management
    if management.describe(model, version).min_workers != workers:
        management.scale(model, workers, version)  # an archive's minWorkers wins over the register call
    return management.wait_until_ready(
        model, version, workers=workers, timeout=pace.timeout, sleep=pace.sleep
    )
