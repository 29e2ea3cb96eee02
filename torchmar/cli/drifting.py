"""Defines `torchmar drift`, which compares new requests with those of a reference."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ..errors import DatasetError
from ..files import why_no_file
from ._command import Shown
from ._options import Option
from ._output import as_torchmars, escape, out, print_table
from ._under_way import progress

if TYPE_CHECKING:
    from ..drift import Drift, Figures


def drift(
    mar: Annotated[Path, "A .mar, or a folder with the same files."],
    *,
    data: Annotated[Path, "New requests: a folder, or a .csv, .jsonl or .parquet; labels are not used."],
    reference: Annotated[Path, "Requests of the same form that the model was made for."],
    limit: Annotated[int | None, Option("Use only so many requests of each, drawn by --seed.", min=5)] = 2000,
    seed: Annotated[int, Option("Seed of --limit.", min=0)] = 0,
    report: Annotated[Path | None, "Write a page (.html) with tables and plots."] = None,
) -> Shown:
    """Tell whether new requests, and the archive's answers to them, are like those of a reference.

    This process loads the archive, which runs its code, and answers both. Figures of the requests (a
    picture's brightness, a text's length, a table's columns) and of the answers (class, confidence) are
    compared by PSI and a Kolmogorov-Smirnov test; chance alone raises no alarm. Exit code 1 if a figure has
    drifted. docs/evaluation.md describes the figures.

    Example: torchmar drift model_store/digits-1.0.mar --reference data/train --data data/new
    """
    from .. import drift as lib
    from ..dataset import read_dataset, sample
    from ..mar import verify

    if report is not None and (why := why_no_file(report)):
        raise DatasetError(f"--report {report}: cannot be written: {why}")
    archive = verify(mar)
    both = [sample(read_dataset(path), limit, seed) for path in (reference, data)]
    with progress(str(mar)) as step:
        step(f"answering {len(both[0])} requests of {reference}")
        before = lib.figures_of(archive, both[0])
        step(f"answering {len(both[1])} requests of {data}")
        now = lib.figures_of(archive, both[1])
    found = lib.drifts(before, now)
    error = None
    if report is not None:
        try:
            lib.write_drift_page(report, archive, (str(reference), str(data)), (before, now), found)
        except OSError as failed:  # still show what was found
            error = as_torchmars(failed)
    facts = {
        "path": archive.path,
        "name": archive.name,
        "version": archive.version,
        "reference": before.count,
        "requests": now.count,
        "refused": now.refused,
        "drifted": [one.figure for one in found if one.verdict == "drifted"],
        "figures": [asdict(one) for one in found],
        "report": report,
    }
    code = int(any(one.verdict == "drifted" for one in found))
    return Shown(facts, partial(_print, before, now, found, report), error=error, code=code)


def _print(before: Figures, now: Figures, found: list[Drift], report: Path | None) -> None:
    from ..drift import drift_rows

    out.print(f"{now.count} requests against {before.count} of the reference")
    if now.refused or before.refused:
        out.print(f"[yellow]not answered[/yellow]: {now.refused}, and {before.refused} of the reference")
    print_table("", ("figure", "", "PSI>", "by chance>", "KS p>"), drift_rows(found))
    if report is not None:
        out.print(f"report: {escape(str(report))}")
