"""Say in words what is known of a version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..files import size
from ..names import LONGEST, named, shown
from ..release import Event
from ._read import ModelHistory, Version

_WIDEST = 1000  # characters of a line


def title(version: Version, of: ModelHistory) -> str:
    """Return what a version is called, with the name of another model's."""
    is_own = version.name == of.name
    return shown(version.version, LONGEST) if is_own else named(version.name, version.version)


def default(version: Version, of: ModelHistory) -> str:
    """Return whether it is the default version, and of which hosts where they differ; '' where it is not."""
    if not version.default_on:
        return ""
    is_of_all = len(version.default_on) == len(of.defaults)
    return (
        "default"
        if is_of_all
        else f"default on {', '.join(shown(one, LONGEST) for one in version.default_on)}"
    )


def measured(version: Version) -> list[str]:
    """Return its metrics, the main one first."""
    lineage = None if version.archive is None else version.archive.lineage
    return [] if lineage is None else lineage.measured()


def facts(version: Version) -> Iterator[tuple[str, str]]:
    """Yield what else is known of a version, each in a word and a line."""
    archive = version.archive
    if archive is None:
        yield "archive", "not in the store"
    else:
        yield "archive", f"{shown(archive.path.name, LONGEST)}, {size(archive.size)}"
        if archive.lineage is not None and (origin := archive.lineage.origin()):
            yield "built", shown(origin, _WIDEST)
        if archive.price is not None:
            yield "price", price(archive.price)
    if version.note:
        yield "note", version.note
    for event in version.events:
        yield shown(event.at[:10]), happened(event)


def happened(event: Event) -> str:
    """Return what happened, with the time of the day in UTC."""
    why = f": {shown(' '.join(event.why.split()), _WIDEST)}" if event.why else ""
    return f"{shown(event.at[11:16])} {shown(event.what)}{why}"


def price(content: Mapping[str, Any]) -> str:
    """Return what compressing cost, by a price.json, a stranger's too."""
    try:
        before, after = (size(content["bytes"][name]) for name in ("float", "compressed"))
        how = content["quantize"] or "pruned"
        cost = "" if content["cost"] is None else f", cost {content['cost']['value']:g}"
        return shown(f"{how}: {before} → {after}{cost}, agreement {content['agreement']:g}", LONGEST)
    except (KeyError, TypeError, ValueError, AttributeError):
        return shown(str(content), LONGEST)
