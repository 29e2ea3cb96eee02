"""From an archive to what is served, and back: nothing is lost on the way, and all of it is written down.

    fleet = Fleet(hosts=(Host("local", server, store=Path("model_store")),), folder=Path("releases"))
    result = release(fleet, mar.verify("mine-2.0.mar"), Options())
    rollback(fleet, "mine")

A release goes through plan → copy → register → ready → warm → gate → default → watch; whatever fails before
the switch leaves the old version as it was, and after it the way back is one call. Each act is journaled
before it is done, so that what was killed can be finished (`resume`), undone (`rollback`), or brought back
after a restart of the server (`reconcile`).
"""

from typing import TYPE_CHECKING

from ._options import Options

__all__ = ["Options"]

if TYPE_CHECKING:
    from ._public import *  # noqa: F403
else:

    def __getattr__(name: str) -> object:
        """The rest is imported when it is asked for: it takes half a second that `--help` has not."""
        from importlib import import_module

        try:
            return getattr(import_module("._public", __name__), name)
        except AttributeError:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
