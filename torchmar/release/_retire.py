"""Take a version out of service, and old archives out of the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..errors import ClientError, ReleaseError
from ..files import remove_tree
from ..workers import drain_and_unregister, has_version_metrics
from ._fleet import Fleet, Host, ServedState, observe
from ._history import History, history
from ._journal import Writer
from ._options import Options


@dataclass(frozen=True)
class Retired:
    """Holds what was taken away. `removed` are archives that are no longer in the store of the host.

    `pinned_seen` is False where the metrics do not show whether clients ask for the version by its number.
    `archive_removed` is True where TorchServe removed the archive, too, as it was registered by a URL.
    """

    host: str
    model: str
    version: str
    seconds: float
    removed: tuple[str, ...] = ()
    pinned_seen: bool = True
    archive_removed: bool = False


def retire(
    fleet: Fleet,
    model: str,
    version: str,
    options: Options,
    *,
    keep: int | None = None,
) -> tuple[Retired, ...]:
    """Drain a version that is not the default, and unregister it, on each host that serves it or should.

    The archives of the last `keep` released versions stay in the store, None keeps all. Raises ReleaseError,
    ClientError.
    """
    with fleet.locked(model):
        past = history(fleet.journal(model))
        past.require_finished()
        served = {host.name: observe(host.server, model) for host in fleet.hosts}
        hosts = _serving(fleet, past, served, version, options)
        writer = fleet.begin(model, "retire", served, version=version, options=options.as_json())
        try:
            found = [
                _retire(fleet, writer, host, past, served[host.name], version, options) for host in hosts
            ]
            removed = {} if keep is None else _prune(fleet, past, version, keep)
        except ReleaseError as error:
            writer.write("finished", outcome="failed", reason=str(error))
            raise
        writer.write("finished", outcome="retired", removed=removed)
    return tuple(replace(one, removed=removed.get(one.host, ())) for one in found)


def _serving(
    fleet: Fleet, past: History, served: Mapping[str, ServedState], version: str, options: Options
) -> list[Host]:
    """Return the hosts that serve it or should: others may have been added since. Raises ReleaseError."""
    hosts = []
    for host in fleet.hosts:
        now = served[host.name]
        if now.default == version:
            raise ReleaseError(
                f"{host.name}: {version} is the default version of {past.model}: release another one first"
            )
        if (
            now.get(version) is not None
            and not options.pinned_unseen
            and not has_version_metrics(host.server)
        ):
            raise ReleaseError(
                f"{host.name}: its metrics do not tell whether clients ask for {past.model} {version} by its "
                "number, and their requests would be lost: give --metrics, and the server "
                "metrics_mode=prometheus; or --pinned-unseen where you know that nobody does"
            )
        if now.get(version) is not None or past.desired(host.name).get(version) is not None:
            hosts.append(host)
    if not hosts:
        where = ", ".join(host.name for host in fleet.hosts)
        raise ReleaseError(f"{where}: {past.model} {version} is not registered")
    return hosts


def _retire(
    fleet: Fleet,
    writer: Writer,
    host: Host,
    past: History,
    before: ServedState,
    version: str,
    options: Options,
) -> Retired:
    begin, done = fleet.clock(), Retired(host.name, writer.model, version, 0.0)
    with writer.step(host.name, "retire") as data:
        if observe(host.server, writer.model).get(version) is not None:
            found = drain_and_unregister(host.server, writer.model, version, fleet.pace(options))
            data |= {"pinned_seen": found.pinned_seen, "archive_removed": found.archive_removed}
            done = replace(done, pinned_seen=found.pinned_seen, archive_removed=found.archive_removed)
    now = fleet.served(host, writer.model, before.without(version))
    writer.write("served", host.name, **past.still_desired(host.name, before, now, gone=version).as_json())
    return replace(done, seconds=fleet.clock() - begin)


def _prune(fleet: Fleet, past: History, retired: str, keep: int) -> dict[str, tuple[str, ...]]:
    """Remove archives of earlier releases but for the last `keep`; return them by host.

    No archive is removed that any host serves or `reconcile` would register: hosts may share a store.
    """
    released = [
        one.file
        for one in past.records
        if one.kind == "release" and one.outcome == "promoted" and one.file is not None
    ]
    newest_first = list(dict.fromkeys(reversed(released)))
    try:
        needed = {one.archive for host in fleet.hosts for one in observe(host.server, past.model).versions}
    except ClientError as error:
        raise ReleaseError(f"{retired} is retired, and the stores are left as they are: {error}") from error
    needed |= {
        one.archive for served in past.served.values() for one in served.versions if one.version != retired
    }
    removed: dict[str, tuple[str, ...]] = {}
    for host in fleet.hosts:
        for file in newest_first[keep:]:
            if host.store is None or file in needed:
                continue
            path = host.store / file
            try:
                if not path.exists():
                    continue
                remove_tree(path) if path.is_dir() else path.unlink()
            except OSError as error:
                raise ReleaseError(
                    f"{host.name}: {retired} is retired, but the store cannot be cleaned: {error}"
                ) from error
            removed[host.name] = (*removed.get(host.name, ()), file)
    return removed
