"""Fewer workers, other workers, none: without losing what they have in hand.

TorchServe ends workers at once. So a version is made idle first (drain), and while it is the default a
standby made of its archive answers for it. No journal is needed here.
"""

from ._drain import UNSEEN, Drained, drain, drain_and_unregister, has_version_metrics, requests_to_version
from ._pace import WaitPolicy
from ._repair import Repaired, find_dead, process_alive, repair
from ._scale import scale
from ._standby import end_standby, is_standby, standby_of, stood_in_for

__all__ = [
    "UNSEEN",
    "Drained",
    "Repaired",
    "WaitPolicy",
    "drain",
    "drain_and_unregister",
    "end_standby",
    "find_dead",
    "has_version_metrics",
    "is_standby",
    "process_alive",
    "repair",
    "requests_to_version",
    "scale",
    "standby_of",
    "stood_in_for",
]
