"""Find out what servers serve, and what the journals say of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..client import ModelVersion, Server
from ..errors import ClientError, ModelNotFound, ReleaseError, UnmanageableName
from ..release import Fleet, ServedVersion
from ..release import status as journaled_status
from ..release._status import Status


@dataclass(frozen=True)
class ServerState:
    """Holds what one server serves: each version with whether it is the default.

    `healthy` is what its /ping says. `unmanageable` are models whose names no URL can express, with the
    reason.
    """

    healthy: bool
    addresses: Mapping[str, str]
    versions: tuple[tuple[ModelVersion, bool], ...]
    unmanageable: Mapping[str, str]

    @property
    def dead(self) -> tuple[ModelVersion, ...]:
        """Return the default versions without a READY worker, which /ping does not notice."""
        return tuple(one for one, is_default in self.versions if is_default and not one.ready_workers)


@dataclass(frozen=True)
class FleetState:
    """Holds the state of each host that responds, and the last change of each model by the journals.

    `no_answer` are the others, each with the reason; `unread` is why the journals cannot be read, or ''.
    """

    servers: Mapping[str, ServerState]
    no_answer: tuple[str, ...]
    released: tuple[Status, ...]
    unread: str


def versions_of(server: Server, model: str) -> tuple[tuple[ModelVersion, bool], ...]:
    """Return a model's versions, each with whether it is the default. Raises ClientError."""
    default = server.management.default_version(model)
    return tuple((one, one.version == default) for one in server.management.versions(model))


def server_state(server: Server) -> ServerState:
    """Ask a server for all that it serves. Raises ClientError."""
    healthy = server.inference.ping()
    versions: list[tuple[ModelVersion, bool]] = []
    unmanageable: dict[str, str] = {}
    for entry in server.management.models():
        try:
            versions += versions_of(server, entry.name)
        except ModelNotFound:
            pass  # somebody has unregistered it since
        except UnmanageableName as error:
            unmanageable[entry.name] = str(error)
    addresses = {
        "inference": server.inference.address,
        "management": server.management.address,
        "metrics": server.metrics.address,
    }
    return ServerState(healthy, addresses, tuple(versions), unmanageable)


def fleet_state(fleet: Fleet, *, go_without: bool = False) -> FleetState:
    """Ask all hosts what they serve, and compare it with the journals.

    Raises ClientError if a host does not respond, unless `go_without` notes that.
    """
    servers: dict[str, ServerState] = {}
    no_answer = [f"{name}: {why}" for name, why in fleet.missing.items()]
    for host in fleet.hosts:
        try:
            servers[host.name] = server_state(host.server)
        except ClientError as error:
            if not go_without:
                raise
            no_answer.append(f"{host.name}: {error}")
    defaults = {
        name: {one.name: ServedVersion.of(one) for one, is_default in state.versions if is_default}
        for name, state in servers.items()
    }
    try:
        released, unread = tuple(journaled_status(fleet.folder, defaults)), ""
    except ReleaseError as error:  # what is served is known all the same
        released, unread = (), str(error)
    return FleetState(servers, tuple(no_answer), released, unread)
