"""Release a candidate, and finish what a run that was killed has left of a release."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import MaintenanceError
from ..mar import verify
from ..release import Fleet, Options, Plan, Result, history, release, resume
from ._maintain import Maintained
from ._work import held, read_json, write_json

_FILE = "releasing.json"


def release_candidate(
    fleet: Fleet, found: Maintained, work: Path, on_plans: Callable[[tuple[Plan, ...]], None] | None = None
) -> Result:
    """Release a candidate through the gate, and note it before that in `work`, for `finish_release`.

    Raises what `release` raises; MaintenanceError for a run without a candidate.
    """
    if found.archive is None:
        raise MaintenanceError("nothing is there to release: the run made no candidate")
    archive = verify(found.archive)
    with held(work):
        write_json(work / _FILE, {"version": archive.version, "sha256": archive.sha256})
        result = release(fleet, archive, Options(), on_plans)
        (work / _FILE).unlink(missing_ok=True)
    return result


def finish_release(fleet: Fleet, model: str, work: Path) -> Result | None:
    """Go on with the release of a candidate that was killed; None where there is none.

    A release that somebody else has begun is left alone. Raises what `resume` raises.
    """
    noted = read_json(work / _FILE)
    if noted is None:
        return None
    with held(work):
        record = history(fleet.journal(model)).unfinished
        if record is None or (record.version, record.sha256) != (noted.get("version"), noted.get("sha256")):
            return None
        result = resume(fleet, model)
        (work / _FILE).unlink(missing_ok=True)
    return result
