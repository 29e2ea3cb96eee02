"""Release a candidate, and finish what a run that was killed has left of a release."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import MaintenanceError
from ..mar import Archive, verify
from ..release import Fleet, Options, Plan, Result, history, observe, release, resume
from ._maintain import Maintained
from ._work import held, read_json, write_json

_TRIED = {"promoted", "failed"}


def why_not_released(fleet: Fleet, found: Maintained) -> str:
    """Return why a candidate is not to be released without somebody's word; '' where it may be.

    It must follow what is served now, and no release of it may have failed, or been rolled back: a timer does
    not overrule who went back. Raises ClientError, MaintenanceError.
    """
    archive = _archive_of(found)
    served = {observe(host.server, archive.name).default for host in fleet.hosts}
    if served != {found.parent.version}:
        now = ", ".join(sorted(str(one) for one in served))
        return f"the candidate follows {found.parent.version}, and {now} is served now: type the same again"
    for record in history(fleet.journal(archive.name)).records:
        if record.kind == "release" and record.sha256 == archive.sha256 and record.outcome in _TRIED:
            why = record.reason or "it was rolled back"
            again = f"`torchmar release {found.archive}` does it again"
            return f"{archive.version} was released before, and {why}; {again}"
    return ""


def release_candidate(
    fleet: Fleet, found: Maintained, work: Path, on_plans: Callable[[tuple[Plan, ...]], None] | None = None
) -> Result:
    """Release a candidate through the gate, and note it before that in `work`, for `finish_release`.

    Raises what `release` raises; MaintenanceError for a run without a candidate.
    """
    archive = _archive_of(found)
    note = _note(work, archive.name)
    with held(work):
        write_json(note, {"version": archive.version, "sha256": archive.sha256})
        result = release(fleet, archive, Options(), on_plans)
        note.unlink(missing_ok=True)
    return result


def finish_release(fleet: Fleet, model: str, work: Path) -> Result | None:
    """Go on with the release of a candidate that was killed; None where there is none.

    A release that somebody else has begun is left alone. Raises what `resume` raises.
    """
    note = _note(work, model)
    noted = read_json(note)
    if noted is None:
        return None
    with held(work):
        record = history(fleet.journal(model)).unfinished
        is_ours = record is not None and (record.version, record.sha256) == (
            noted.get("version"),
            noted.get("sha256"),
        )
        result = resume(fleet, model) if is_ours else None
        note.unlink(missing_ok=True)
    return result


def _note(work: Path, model: str) -> Path:
    return work / f"releasing-{model}.json"


def _archive_of(found: Maintained) -> Archive:
    if found.archive is None:
        raise MaintenanceError("nothing is there to release: the run made no candidate")
    return verify(found.archive)
