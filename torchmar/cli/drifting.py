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
    from ..drift import Drift, Figures, Reference
    from ..mar import Archive


def drift(
    mar: Annotated[Path, "A .mar, or a folder with the same files."],
    *,
    data: Annotated[Path, "New requests: a folder, or a .csv, .jsonl or .parquet; labels are not used."],
    reference: Annotated[
        Path | None,
        "Requests of the same form that the model was made for; by default what the archive carries of them.",
    ] = None,
    limit: Annotated[int | None, Option("Use only so many requests of each, drawn by --seed.", min=5)] = 2000,
    seed: Annotated[int, Option("Seed of --limit.", min=0)] = 0,
    report: Annotated[Path | None, "Write a page (.html) with tables and plots."] = None,
) -> Shown:
    """Tell whether new requests, and the archive's answers to them, are like those of a reference.

    This process loads the archive, which runs its code, and answers the requests. Figures of the requests (a
    picture's brightness, a text's length, a table's columns), of the model's outputs and of the answers
    (class, confidence) are compared by PSI, a Kolmogorov-Smirnov test and MMD; chance alone raises no alarm.
    Exit code 1 if a figure has drifted. docs/drift.md describes the figures.

    Example: torchmar drift model_store/digits-1.0.mar --data data/new
    """
    from .. import drift as lib
    from ..dataset import read_dataset, sample
    from ..mar import REFERENCE, verify

    if report is not None and (why := why_no_file(report)):
        raise DatasetError(f"--report {report}: cannot be written: {why}")
    archive = verify(mar)
    carried = _carried(archive) if reference is None else None
    named = REFERENCE if reference is None else str(reference)
    paths = [data] if reference is None else [data, reference]
    asked = [sample(read_dataset(path), limit, seed) for path in paths]
    with progress(str(mar)) as step, lib.answering(archive.path, archive.comparator) as ask:
        figures = []
        for path, examples in zip(paths, asked, strict=True):
            step(f"answering {len(examples)} requests of {path}")
            figures.append(ask(examples))
    now = figures[0]
    before = carried or lib.Reference.of(figures[-1])
    found = lib.drifts(before, now)
    error = None
    if report is not None:
        try:
            lib.write_drift_page(report, archive, (named, str(data)), before, now, found)
        except OSError as failed:  # still show what was found
            error = as_torchmars(failed)
    facts = {
        "path": archive.path,
        "name": archive.name,
        "version": archive.version,
        "against": named,
        "reference": before.answered,
        "requests": now.count,
        "refused": now.refused,
        "refusal": now.refusal,
        "drifted": [one.figure for one in found if one.verdict == "drifted"],
        "figures": [asdict(one) for one in found],
        "report": report,
    }
    code = int(any(one.verdict == "drifted" for one in found))
    return Shown(facts, partial(_print, before, now, found, report), error=error, code=code)


def _carried(archive: Archive) -> Reference:
    from ..drift import reference_of

    found = reference_of(archive)
    if found is None:
        remedy = "name requests that the model was made for, or build it with `reference` in model.yaml"
        raise DatasetError(f"--reference: {remedy}: {archive.path} carries none")
    return found


def _print(before: Reference, now: Figures, found: list[Drift], report: Path | None) -> None:
    from ..drift import COLUMNS, drift_rows

    out.print(f"{now.count} requests against {before.answered} of the reference")
    if now.refused or before.refused:
        out.print(f"[yellow]not answered[/yellow]: {now.refused}, and {before.refused} of the reference")
    if now.refused:
        out.print(f"the first one: {escape(now.refusal)}")
    print_table("", COLUMNS, drift_rows(found))
    if report is not None:
        out.print(f"report: {escape(str(report))}")
