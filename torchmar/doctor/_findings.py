"""What doctor finds, and how one check that fails leaves the others alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ..names import shown

ERROR, WARNING, OK = "error", "warning", "ok"


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `level` is error (it will not work), warning (it will, badly) or ok."""

    level: str
    what: str
    where: str = ""
    remedy: str = ""


def apart(
    what: str, look: Callable[[], Iterable[Finding]], *, where: str = "", level: str = WARNING
) -> Iterator[Finding]:
    """The findings of one check. An error in it is one finding more, and not the end of the others."""
    try:
        yield from look()
    except Exception as error:  # whatever it is: the report goes on
        yield failed(what, error, where=where, level=level)


def failed(what: str, error: Exception, *, where: str = "", level: str = WARNING) -> Finding:
    """What there is to say of a check that could not be made."""
    why = shown(str(error) or type(error).__name__, 500)
    return Finding(level, f"{what} could not be looked at: {why}", where, "mend that, and look again")
