"""Tell whether new requests, and an archive's answers to them, are like those of a reference.

    before, now = (figures_of(archive, read_dataset(Path(name))) for name in ("data/train", "data/new"))
    for one in drifts(before, now):
        print(one.figure, one.verdict)

Labels are not needed. `divergences` has the distances.
"""

from ._figures import Figures, figures_of
from ._page import drift_rows, write_drift_page
from ._verdicts import Drift, drifts

__all__ = ["Drift", "Figures", "drift_rows", "drifts", "figures_of", "write_drift_page"]
