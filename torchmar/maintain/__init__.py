"""Keep a served model good: look at new data, decide, and make a candidate where that helps.

    source, served = load_model(Path("models/digits")), mar.verify("model_store/digits-1.0.mar")
    found = maintain(source, served, Data(new, train, test), Path("model_store"))
    print(found.outcome, found.reasons)

Nothing here changes what is served: a candidate is an archive in the store, and `release` decides about it.
"""

from ._decide import Decision, Observed, Thresholds, decide, refusals
from ._maintain import Data, Maintained, Settings, maintain
from ._page import as_json, headline, write_page, write_report
from ._release import finish_release, release_candidate, why_not_released
from ._served import served_archive
from ._work import WORK

__all__ = [
    "WORK",
    "Data",
    "Decision",
    "Maintained",
    "Observed",
    "Settings",
    "Thresholds",
    "as_json",
    "decide",
    "finish_release",
    "headline",
    "maintain",
    "refusals",
    "release_candidate",
    "served_archive",
    "why_not_released",
    "write_page",
    "write_report",
]
