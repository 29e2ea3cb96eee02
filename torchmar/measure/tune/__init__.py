"""Find the best workers × threads × batch size × delay for an archive on this machine by measuring.

    tuned = tune(verify("model_store/mine-1.0.mar"), Limits(p99_ms=80), environment=os.environ)

A real TorchServe serves each candidate, and clients load it in a closed loop; docs/tuning.md explains how
candidates are chosen. The policy (`_search`) and the decision (`_decide`) measure nothing; the rest decides
nothing.
"""

from ._bench import Settings
from ._decide import Kind, Rounds, decide
from ._model_yaml import changed, lines_of, model_yaml_of, require_changeable, settings_of, write
from ._report import COLUMNS, FINAL_COLUMNS, final_rows, render_html, rows_of, sentence, write_report
from ._run import Tuned, tune
from ._search import Space, challengers, search
from ._units import milliseconds, size_in_bytes
from ._values import Candidate, Limits, Trial, better, frontier, ranked

__all__ = [
    "COLUMNS",
    "FINAL_COLUMNS",
    "Candidate",
    "Kind",
    "Limits",
    "Rounds",
    "Settings",
    "Space",
    "Trial",
    "Tuned",
    "better",
    "challengers",
    "changed",
    "decide",
    "final_rows",
    "frontier",
    "lines_of",
    "milliseconds",
    "model_yaml_of",
    "ranked",
    "render_html",
    "require_changeable",
    "rows_of",
    "search",
    "sentence",
    "settings_of",
    "size_in_bytes",
    "tune",
    "write",
    "write_report",
]
