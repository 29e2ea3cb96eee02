"""Split text into sentences, in any script, without a language's word list."""

from __future__ import annotations

import re

# A Latin, Greek or Cyrillic full stop ends a sentence before white space; a Chinese or Japanese one ends it
# anywhere, because they write no spaces. Closing quotation marks and brackets belong to their sentence.
_CLOSING = "\"'’”»)\\]】」』》"
_END = re.compile(
    rf"(?P<stop>[.!?…]+|[؟۔।॥։።]+)[{_CLOSING}]*(?=\s)|[。！？｡]+[{_CLOSING}]*|\n[ \t]*\n|[\u2029]"
)
# "Dr. Who", "J. S. Bach": a capital, alone or with one small letter, is usually an abbreviation.
_SHORT = re.compile(r"(?<!\w)[^\W\d_][^\W\d_]?\.$")


def sentences(text: str) -> list[str]:
    """Return the sentences of a text in order, without surrounding white space."""
    found: list[str] = []
    start = 0
    for match in _END.finditer(text):
        if _goes_on(text[start : match.end()], text[match.end() :], match.group("stop")):
            continue
        found.append(text[start : match.end()])
        start = match.end()
    return [" ".join(one.split()) for one in [*found, text[start:]] if one.strip()]


def _goes_on(before: str, after: str, stop: str | None) -> bool:
    """Return whether the sentence continues: a small letter follows, or it is an abbreviation."""
    if stop is None:
        return False
    if after.lstrip()[:1].islower():
        return True
    short = _SHORT.search(before) if stop == "." else None
    return short is not None and short.group()[0].isupper() and not short.group()[1:2].isupper()
