"""What `torchmar.release` offers; it is imported when the first of these names is asked for."""

from ._fleet import Fleet, Host, ServedState, ServedVersion, observe
from ._history import history
from ._journal import Entry
from ._options import Options
from ._past import Event, Past, past_of
from ._plan import Plan, why_not
from ._reconcile import PartlyReconciled, Reconciled, reconcile
from ._release import Result, plan_release, release, resume
from ._report import write_report
from ._retire import Retired, retire
from ._rollback import Rollback, rollback
from ._status import status

__all__ = [
    "Entry",
    "Event",
    "Fleet",
    "Host",
    "Options",
    "PartlyReconciled",
    "Past",
    "Plan",
    "Reconciled",
    "Result",
    "Retired",
    "Rollback",
    "ServedState",
    "ServedVersion",
    "history",
    "observe",
    "past_of",
    "plan_release",
    "reconcile",
    "release",
    "resume",
    "retire",
    "rollback",
    "status",
    "why_not",
    "write_report",
]
