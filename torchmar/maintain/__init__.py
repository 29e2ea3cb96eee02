"""Keep a served model good: look at new data, decide, and make a candidate where that helps.

    found = maintain(load_model(Path("models/digits")), mar.verify("digits-1.0.mar"), data, Path("model_store"))
    print(found.decision, found.reasons)

Nothing here changes what is served: a candidate is an archive in the store, and `release` decides about it.
"""

from ._decide import Decision, Observed, Thresholds, decide, refusals
from ._maintain import Data, Maintained, Settings, maintain
from ._page import as_json, headline, write_page, write_report
from ._served import served_archive

__all__ = [
    "Data",
    "Decision",
    "Maintained",
    "Observed",
    "Settings",
    "Thresholds",
    "as_json",
    "decide",
    "headline",
    "maintain",
    "refusals",
    "served_archive",
    "write_page",
    "write_report",
]
