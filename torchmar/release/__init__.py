"""From an archive to what is served, and back: nothing is lost on the way, and all of it is written down.

    fleet = Fleet(hosts=(Host("local", server, store=Path("model_store")),), folder=Path("releases"))
    result = release(fleet, mar.verify("mine-2.0.mar"), Options())
    rollback(fleet, "mine")

A release goes through plan → copy → register → ready → warm → gate → default → watch; whatever fails before
the switch leaves the old version as it was, and after it the way back is one call. Each act is journaled
before it is done, so that what was killed can be finished (`resume`), undone (`rollback`), or brought back
after a restart of the server (`reconcile`).
"""

from ..measure.recorded import read_recorded
from ..measure.samples import Finding, Judgement, Outcome, Sample
from ..workers import UNSEEN, Repaired, WaitPolicy, is_standby, process_alive, repair, scale
from ._by_hand import by_hand
from ._fleet import Fleet, Host, observe
from ._history import History, Record, history
from ._journal import Entry, Journal, models
from ._options import Options
from ._plan import Check, Facts, Plan, Planned, plan
from ._reconcile import PartlyReconciled, Reconciled, reconcile
from ._release import Result, plan_release, release, require_no_refusals, resume, why_untold
from ._report import write_report
from ._retire import Retired, retire
from ._rollback import Rollback, rollback
from ._state import ServedState, ServedVersion
from ._status import Status, status

__all__ = [
    "UNSEEN",
    "Check",
    "Entry",
    "Facts",
    "Finding",
    "Fleet",
    "History",
    "Host",
    "Journal",
    "Judgement",
    "Options",
    "Outcome",
    "PartlyReconciled",
    "Plan",
    "Planned",
    "Reconciled",
    "Record",
    "Repaired",
    "Result",
    "Retired",
    "Rollback",
    "Sample",
    "ServedState",
    "ServedVersion",
    "Status",
    "WaitPolicy",
    "by_hand",
    "history",
    "is_standby",
    "models",
    "observe",
    "plan",
    "plan_release",
    "process_alive",
    "read_recorded",
    "reconcile",
    "release",
    "repair",
    "require_no_refusals",
    "resume",
    "retire",
    "rollback",
    "scale",
    "status",
    "why_untold",
    "write_report",
]
