"""Define doctor's findings, and keep one failing check from stopping the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ..names import shown

ERROR, WARNING, OK = "error", "warning", "ok"


@dataclass(frozen=True)
class Finding:
    """One result. `level` is error (it will not work), warning (it will work badly) or ok."""

    level: str
    what: str
    where: str = ""
    remedy: str = ""


def apart(
    what: str, look: Callable[[], Iterable[Finding]], *, where: str = "", level: str = WARNING
) -> Iterator[Finding]:
    """Yield the findings of one check. An error in the check becomes a finding."""
    try:
        yield from look()
    except Exception as error:  # whatever it is, the report continues
        yield failed(what, error, where=where, level=level)


def failed(what: str, error: Exception, *, where: str = "", level: str = WARNING) -> Finding:
    """Return the finding for a check that failed."""
    why = shown(str(error) or type(error).__name__, 500)
    return Finding(level, f"{what} could not be checked: {why}", where, "correct that, and run doctor again")
