"""Parse Java's instants."""

from __future__ import annotations

from datetime import datetime, timezone


def parse_instant(text: str) -> datetime:
    """Parse `2026-11-23T19:53:36.937098225Z`, with any number of fraction digits, to a datetime in UTC.

    Python 3.10's fromisoformat reads neither the Z nor nine digits. Raises ValueError.
    """
    whole, _, fraction = text.removesuffix("Z").partition(".")
    time = datetime.fromisoformat(whole).replace(tzinfo=timezone.utc)
    return time.replace(microsecond=int((fraction + "000000")[:6]))
