"""Draw the archives of a model by descent: which was built from which, how good each is, what became of it.

    found = model_history("digits", Path("model_store"), [Path("releases")])
    write_page(Path("digits.html"), found)

An archive's lineage says what it was built from; the journals of releases say the rest. No server is asked.
"""

from ._page import DEEPEST, write_page
from ._read import Broken, ModelHistory, Version, model_history
from ._words import default, facts, measured, title

__all__ = [
    "DEEPEST",
    "Broken",
    "ModelHistory",
    "Version",
    "default",
    "facts",
    "measured",
    "model_history",
    "title",
    "write_page",
]
