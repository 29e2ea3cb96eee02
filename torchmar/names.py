"""Names and versions of models: which of them TorchServe takes and cannot manage, and how they are shown.

TorchServe registers whatever an archive's manifest says, and then finds it in URLs such as
/models/NAME/VERSION. Some names cannot be said there: a model of such a name cannot be described, scaled or
unregistered until the server is restarted.
"""

from __future__ import annotations

LONGEST = 200
"""Characters of a name or a version: a file name has 255 bytes at most, and holds both."""

# What ends or splits a path, also where it is quoted: TorchServe decodes before it looks.
_UNSAYABLE = '/\\<>[]{}|^`"#%?;'


def name_problem(name: str) -> str | None:
    """Why a model of this name could not be managed; None where it could."""
    return _problem(name, "a model's name")


def version_problem(version: str) -> str | None:
    """Why a version of this name could not be managed; None where it could."""
    if version == "all":
        return "the version 'all' means every version in TorchServe's URLs"
    return _problem(version, "a version")


def _problem(text: str, what: str) -> str | None:
    if not text or text in {".", ".."} or text != text.strip():
        return f"{shown(text)!r} cannot be {what}"
    if len(text) > LONGEST:
        return f"{shown(text)!r} has {len(text):,} characters; {what} may have {LONGEST}"
    if text.startswith("token"):
        return f"{shown(text)!r} begins with 'token': TorchServe takes its URLs for calls to its token API"
    bad = sorted({character for character in text if character in _UNSAYABLE or not character.isprintable()})
    if bad:
        return f"{shown(text)!r} holds {', '.join(map(ascii, bad))}, which TorchServe's URLs cannot say"
    return None


def shown(text: str, length: int = 60) -> str:
    """A text from outside, fit for one line of a terminal: shortened, and without line ends or escapes."""
    clean = "".join(
        each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text[: length + 1]
    )
    return clean if len(text) <= length else f"{clean[: length - 1]}…"
