"""Tell whether new requests, and an archive's answers to them, are like those of a reference.

    reference = reference_of(archive) or Reference.of(figures_of(archive, read_dataset(Path("data/train"))))
    for one in drifts(reference, figures_of(archive, read_dataset(Path("data/new")))):
        print(one.figure, one.verdict)

Labels are not needed. `divergences` has the distances.
"""

from ._figures import Ask, Figures, answering, figures_of
from ._page import COLUMNS, drift_rows, write_drift_page
from ._read import parsed_reference, reference_of
from ._reference import MOST_ASKED, Numbers, Reference, recorded
from ._verdicts import Drift, drifts, drifts_of_counts

__all__ = [
    "COLUMNS",
    "MOST_ASKED",
    "Ask",
    "Drift",
    "Figures",
    "Numbers",
    "Reference",
    "answering",
    "drift_rows",
    "drifts",
    "drifts_of_counts",
    "figures_of",
    "parsed_reference",
    "recorded",
    "reference_of",
    "write_drift_page",
]
