"""What `torchmar.release` offers; it is imported when the first of these names is asked for."""

from ..measure.samples import Finding, Judgement, Outcome, Sample
from ..workers import UNSEEN, Repaired, WaitPolicy, is_standby, process_alive, repair, scale
from ._converge import converge
from ._fleet import Fleet, Host, observe
from ._history import History, Record, history
from ._journal import Entry, Journal, models
from ._options import Option, Options
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
    "Option",
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
    "converge",
    "history",
    "is_standby",
    "models",
    "observe",
    "plan",
    "plan_release",
    "process_alive",
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
