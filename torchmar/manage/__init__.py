"""Show what a fleet serves, and change it by hand; each change is journaled."""

from ._change import reconcile, repair, scale, set_default, unregister
from ._hosts import open_fleet
from ._journaled import journaled_change, state_after
from ._register import local_archive, register
from ._served import FleetState, ServerState, fleet_state, server_state, versions_of

__all__ = [
    "FleetState",
    "ServerState",
    "fleet_state",
    "journaled_change",
    "local_archive",
    "open_fleet",
    "reconcile",
    "register",
    "repair",
    "scale",
    "server_state",
    "set_default",
    "state_after",
    "unregister",
    "versions_of",
]
