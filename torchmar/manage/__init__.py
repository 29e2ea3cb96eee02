"""Change what a fleet serves by hand, journaled: register, set the default, unregister, scale, repair."""

from ._change import repair, scale, set_default, unregister
from ._journaled import journaled_change
from ._register import local_archive, register

__all__ = ["journaled_change", "local_archive", "register", "repair", "scale", "set_default", "unregister"]
