"""Find by measuring how a model is best compressed on this machine: size, latency, error, what is accepted.

    found = search(load_model("models/digits/int8.yaml"), 600.0, Path("results.json"))
    found.best

There are at most about twenty ways, so they are tried in a sensible order and not sampled. `_points` says
which, `_choose` decides and measures nothing; `_run` measures and decides nothing.
"""

from ._choose import Figures, best, frontier
from ._model_yaml import lines_of, require_changeable, settings_of, write
from ._points import Point, mixed, points_of
from ._report import columns, rows_of, sentence, write_report
from ._results import Results
from ._run import Searched, search
from ._trial import Trial
from ._units import seconds_of

__all__ = [
    "Figures",
    "Point",
    "Results",
    "Searched",
    "Trial",
    "best",
    "columns",
    "frontier",
    "lines_of",
    "mixed",
    "points_of",
    "require_changeable",
    "rows_of",
    "search",
    "seconds_of",
    "sentence",
    "settings_of",
    "write",
    "write_report",
]
