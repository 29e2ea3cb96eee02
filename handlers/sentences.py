"""Where one sentence ends and the next begins, in any script, without a language's word list."""

from __future__ import annotations

import re

# A full stop of Latin, Greek and Cyrillic ends a sentence before white space; those of Chinese and Japanese,
# which write none, anywhere. Closing quotation marks and brackets belong to what they end.
_CLOSING = "\"'’”»)\\]】」』》"
_END = re.compile(
    rf"(?P<stop>[.!?…]+|[؟۔।॥։።]+)[{_CLOSING}]*(?=\s)|[。！？｡]+[{_CLOSING}]*|\n[ \t]*\n|[\u2029]"
)
# "Dr. Who", "J. S. Bach": a capital, alone or with one small letter, is more often short for something.
_SHORT = re.compile(r"(?<!\w)[^\W\d_][^\W\d_]?\.$")


def sentences(text: str) -> list[str]:
    """The sentences of a text, in their order and without the white space around them."""
    found: list[str] = []
    start = 0
    for match in _END.finditer(text):
        if _goes_on(text[start : match.end()], text[match.end() :], match.group("stop")):
            continue
        found.append(text[start : match.end()])
        start = match.end()
    return [" ".join(one.split()) for one in [*found, text[start:]] if one.strip()]


def _goes_on(before: str, after: str, stop: str | None) -> bool:
    """Whether an end is none: a small letter follows it, or it is that of a short word with a capital."""
    if stop is None:
        return False
    if after.lstrip()[:1].islower():
        return True
    short = _SHORT.search(before) if stop == "." else None
    return short is not None and short.group()[0].isupper() and not short.group()[1:2].isupper()
