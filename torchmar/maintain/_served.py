"""Find the archive of the version that is served."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..errors import MaintenanceError, TorchmarError
from ..mar import Archive, find_archives, read, verify
from ..release import Fleet, ServedVersion, observe
from ..workers import stood_in_for


def served_archive(fleet: Fleet, model: str) -> Archive:
    """Return the archive of a model's default version, verified, out of a server's model store.

    Raises MaintenanceError where the servers serve none, or several, or no store has it; ClientError.
    """
    states = [observe(host.server, model) for host in fleet.hosts]
    defaults = {None if one.default is None else stood_in_for(one.default) for one in states}
    if len(defaults) > 1 or None in defaults:
        found = ", ".join(sorted(str(one) for one in defaults))
        what = "the servers have different default versions" if len(defaults) > 1 else "no version is served"
        raise MaintenanceError(f"give --archive: {what} of {model}: {found}")
    [version] = defaults
    for host, state in zip(fleet.hosts, states, strict=True):
        served = None if version is None else state.get(version)
        for path in () if host.store is None else _places(host.store, served):
            with suppress(TorchmarError, OSError):  # one that cannot be read is not the one that is served
                found_there = read(path)
                if (found_there.name, found_there.version) == (model, version):
                    return verify(path)
    raise MaintenanceError(f"give --archive: no model store here has {model} {version}, which is served")


def _places(store: Path, served: ServedVersion | None) -> Iterator[Path]:
    """Yield the archive that the server names, and then all others of its store."""
    if served is not None:
        yield store / served.archive
    with suppress(OSError):
        yield from find_archives(store)
