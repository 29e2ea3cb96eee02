"""Check names and versions of models, and show them safely.

TorchServe registers whatever an archive's manifest says, but can then find it only by URLs such as
/models/NAME/VERSION. `unsayable` explains why no URL can express a name: nobody can describe, scale or
unregister such a model until the server restarts (tests/live/test_names.py asks a server for each character).
`name_problem` and `version_problem` are for new registrations and refuse more: what curl, proxies, logs or
file names would trip over.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

LONGEST = 200
"""The most UTF-8 bytes of a name or a version: a file name has at most 255, and holds both."""

_MOST_LISTED = 10  # names in a message
_LONGEST_QUOTED = 1_900  # TorchServe reads 4,096 bytes of a request's first line, which holds both
# TorchServe decodes them all. But unquoted they end a URL, or curl takes them for a pattern.
_TO_BE_QUOTED = '\\<>[]{}|^`"#%?;'


def unsayable(text: str) -> str | None:
    """Explain why no URL of TorchServe can express this name or version; None if one can."""
    if not text or text in {".", ".."}:
        return f"{shown(text)!r} is no part of a URL's path"
    if "/" in text:
        return f"{shown(text)!r} holds '/', which ends a name in TorchServe's URLs, even if it is quoted"
    try:
        quoted = quote(text, safe="")
    except UnicodeEncodeError:
        return f"{shown(text)!r} holds half a character (a surrogate), which no URL can say"
    if len(quoted) > _LONGEST_QUOTED:
        return f"{shown(text)!r} has {len(quoted):,} bytes in a URL: too long for TorchServe to read"
    return None


def name_problem(name: str) -> str | None:
    """Explain why nobody should register a model under this name; None if it is fine."""
    if name.startswith(".") and not unsayable(name):
        return (
            f"{shown(name)!r} begins with a dot, so that its archive is hidden: it cannot be a model's name"
        )
    return _problem(name, "a model's name")


def version_problem(version: str) -> str | None:
    """Explain why nobody should register a model as this version; None if it is fine."""
    if version == "all":
        return "the version 'all' means every version in TorchServe's URLs"
    return _problem(version, "a version")


def _problem(text: str, what: str) -> str | None:
    problem = unsayable(text)
    if problem is not None:
        return f"{problem}: it cannot be {what}"
    for is_so, why in (
        (text != text.strip(), "begins or ends with a space"),
        (
            text.startswith("token"),
            "begins with 'token', and TorchServe takes its URLs for calls to its token API",
        ),
        (".." in f"{text}.", "makes a file name with '..', which TorchServe refuses"),  # NAME-VERSION.mar
    ):
        if is_so:
            return f"{shown(text)!r} {why}: it cannot be {what}"
    bad = sorted(
        {character for character in text if character in _TO_BE_QUOTED or not character.isprintable()}
    )
    if bad:
        held = ", ".join(map(ascii, bad[:5]))
        return (
            f"{shown(text)!r} holds {held}, which URLs, logs and terminals cannot handle; it cannot be {what}"
        )
    size = len(text.encode())
    if size > LONGEST:
        return f"{shown(text)!r} has {size:,} bytes; {what} may have {LONGEST}"
    return None


def shown(text: str, length: int = 60) -> str:
    """Return foreign text for one line of a terminal: shortened, without line ends or escapes."""
    clean = "".join(
        each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text[: length + 1]
    )
    return clean if len(text) <= length else f"{clean[: length - 1]}…"


def named(name: str, version: str) -> str:
    """Return a foreign name and version for one line, whole."""
    return f"{shown(name, LONGEST)} {shown(version, LONGEST)}"


def listed(names: Sequence[str], before: str = "", between: str = ", ") -> str:
    """Join names from outside, the first of many, after `before`; '' for no names."""
    more = [f"{len(names) - _MOST_LISTED} more"] if len(names) > _MOST_LISTED else []
    return (before if names else "") + between.join(
        [*(shown(name, LONGEST) for name in names[:_MOST_LISTED]), *more]
    )
