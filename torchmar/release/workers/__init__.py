"""Fewer workers, other workers, none: without losing what they have in hand.

TorchServe ends workers at once. So a version is made idle first (drain), and while it is the default a
stand-in made of its archive answers for it. No journal is needed here.
"""

from ._drain import UNSEEN, asked_for, drain, drain_and_unregister, tells_who_asks, unregister
from ._pace import Pace
from ._repair import Repaired, find_dead, process_alive, repair
from ._scale import scale
from ._stand_in import end_stand_in, is_stand_in, standby, stood_in_for

__all__ = [
    "UNSEEN",
    "Pace",
    "Repaired",
    "asked_for",
    "drain",
    "drain_and_unregister",
    "end_stand_in",
    "find_dead",
    "is_stand_in",
    "process_alive",
    "repair",
    "scale",
    "standby",
    "stood_in_for",
    "tells_who_asks",
    "unregister",
]
