"""Release a candidate, and finish what a run that was killed has left of a release."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..mar import Archive
from ..release import Fleet, Options, Plan, Result, history, observe, release, resume
from ._work import held, read_json, write_json

_TRIED = {"promoted", "failed"}


def why_not_released(fleet: Fleet, candidate: Archive) -> str:
    """Return why a candidate is not to be released without somebody's word; '' where it may be.

    It must follow what is served now, and no release of it may have failed, or been rolled back: a timer does
    not overrule who went back. Raises ClientError.
    """
    assert candidate.lineage is not None
    assert candidate.lineage.parent is not None
    parent = candidate.lineage.parent.version
    served = {observe(host.server, candidate.name).default for host in fleet.hosts}
    if served != {parent}:
        now = ", ".join(sorted(str(one) for one in served))
        return f"the candidate follows {parent}, and {now} is served now: type the same again"
    for record in history(fleet.journal(candidate.name)).records:
        if record.kind == "release" and record.sha256 == candidate.sha256 and record.outcome in _TRIED:
            why = record.reason or "it was rolled back"
            again = f"`torchmar release {candidate.path}` does it again"
            return f"{candidate.version} was released before, and {why}; {again}"
    return ""


def release_candidate(
    fleet: Fleet, candidate: Archive, work: Path, on_plans: Callable[[tuple[Plan, ...]], None] | None = None
) -> Result:
    """Release a candidate through the gate, and note it before that in `work`, for `finish_release`.

    Raises what `release` raises.
    """
    note = _note(work, candidate.name)
    with held(work):
        write_json(note, {"version": candidate.version, "sha256": candidate.sha256})
        result = release(fleet, candidate, Options(), on_plans)
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
