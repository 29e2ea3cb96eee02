"""Releases archives on servers, and takes them back: no request is lost, and each act is journaled.

    fleet = Fleet(hosts=(Host("local", server, store=Path("model_store")),), folder=Path("releases"))
    result = release(fleet, mar.verify("mine-2.0.mar"), Options())
    rollback(fleet, "mine")

A release goes through plan → copy → register → ready → warm → gate → default → watch. A failure before the
switch leaves the old version as it was; after the switch the way back is one call. Each act is journaled
before it is done, so a release that was killed can be finished (`resume`) or undone (`rollback`), and the
versions of the journal can be served again after a restart of the server (`reconcile`).
"""

from typing import TYPE_CHECKING

from ._options import Options

__all__ = ["Options"]

if TYPE_CHECKING:
    from ._public import *  # noqa: F403
else:

    def __getattr__(name: str) -> object:
        """Import the rest on first use: it takes half a second, which `--help` should not wait for."""
        from importlib import import_module

        try:
            return getattr(import_module("._public", __name__), name)
        except AttributeError:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
