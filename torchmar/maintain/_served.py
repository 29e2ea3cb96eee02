"""Find the archive of the version that is served."""

from __future__ import annotations

from contextlib import suppress

from ..errors import MaintenanceError, TorchmarError
from ..mar import Archive, find_archives, read, verify
from ..release import Fleet, observe


def served_archive(fleet: Fleet, model: str) -> Archive:
    """Return the archive of a model's default version, verified, out of a server's model store.

    Raises MaintenanceError where the servers serve none, or several, or no store has it; ClientError.
    """
    defaults = {observe(host.server, model).default for host in fleet.hosts}
    if len(defaults) > 1 or None in defaults:
        found = ", ".join(sorted(str(one) for one in defaults))
        what = "the servers have different default versions" if len(defaults) > 1 else "no version is served"
        raise MaintenanceError(f"give --archive: {what} of {model}: {found}")
    [version] = defaults
    for host in fleet.hosts:
        for path in find_archives(host.store) if host.store is not None else ():
            with suppress(TorchmarError, OSError):  # one that cannot be read is not the one that is served
                found_there = read(path)
                if (found_there.name, found_there.version) == (model, version):
                    return verify(path)
    raise MaintenanceError(f"give --archive: no model store here has {model} {version}, which is served")
