"""Add to a refusal what to do instead: what the server does serve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from ..errors import BadAnswer, ClientError, IsDefaultVersion, ModelNotFound
from ..names import listed, shown
from ._connect import Server

NOTHING_REGISTERED = "no model is registered; `torchmar register NAME-VERSION.mar` registers one"


@contextmanager
def remedied(servers: Mapping[str, Server], model: str) -> Iterator[None]:
    """Add a remedy to a refusal of one of the servers, by their names: what it serves, or the next command.

    The remedy is also the error's `hint`.
    """
    try:
        yield
    except (ModelNotFound, IsDefaultVersion) as error:
        is_default = isinstance(error, IsDefaultVersion)
        found = []
        for where, server in servers.items():
            with suppress(ClientError):  # then the refusal comes alone
                remedy = _another_default(server, model) if is_default else _what_is_served(server, model)
                found.append(f"{where}: {remedy}" if len(servers) > 1 else remedy)
        if not found:
            raise
        kind: type[BadAnswer] = type(error)
        refusal = kind("\n  ".join([*found, str(error)]), status=error.status, body=error.body)
        refusal.hint = "\n".join(found)
        raise refusal from None


def chosen_version(servers: Mapping[str, Server], model: str, version: str | None) -> str:
    """Return `version`. If it is None, raises ClientError with the versions to choose from."""
    if version is None:
        served = dict.fromkeys(_what_is_served(server, model) for server in servers.values())
        raise ClientError("; ".join(served))
    return version


def _what_is_served(server: Server, model: str) -> str:
    try:
        served = [one.version for one in server.management.versions(model)]
    except ModelNotFound:
        names = [one.name for one in server.management.models()]
        return f"give the name of a model that is served: {listed(names)}" if names else NOTHING_REGISTERED
    return f"give a version of {shown(model)} that is served: {listed(served)}"


def _another_default(server: Server, model: str) -> str:
    default = server.management.default_version(model)
    others = [one.version for one in server.management.versions(model) if one.version != default]
    to = listed(others, between=" or ")
    return f"make another version the default first: `torchmar set-default {shown(model)} {to}`"
