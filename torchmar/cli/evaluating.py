"""Defines `torchmar evaluate`, which measures how good an archive's answers are."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ..errors import DatasetError
from ..files import why_no_file
from ._command import Shown
from ._options import Option
from ._output import as_torchmars, escape, out, print_table
from ._servers import ServerOptions
from ._under_way import progress

if TYPE_CHECKING:
    from ..evaluate import Evaluation
    from ..mar import Archive

_MOST_FAILED = 5  # shown


def evaluate(
    mar: Annotated[Path, "A .mar, or a folder with the same files."],
    server: ServerOptions,
    *,
    data: Annotated[Path, "Labelled requests: a folder for each class, or a .csv, .jsonl or .parquet."],
    label: Annotated[str, "The column of a table that holds the labels."] = "label",
    against: Annotated[Path | None, "Another archive to compare with, on the same requests."] = None,
    served: Annotated[bool, "Ask the server that serves this version, instead of a worker here."] = False,
    metric: Annotated[
        str | None,
        "classes, numbers, text, boxes, mask, ranking or same; by default what the archive answers.",
    ] = None,
    limit: Annotated[
        int | None, Option("Use only so many requests, drawn at random by --seed.", min=2)
    ] = None,
    seed: Annotated[int, Option("Seed of the intervals and of --limit.", min=0)] = 0,
    report: Annotated[Path | None, "Write a page (.html) with tables and plots."] = None,
) -> Shown:
    """Measure an archive on labelled data: its metrics with intervals, and where it is worst.

    A worker process loads the archive, which runs its code, and answers each request. With --against, the
    same requests tell whether the difference means anything. Exit code 1 if a request is not answered, or if
    the archive is worse than the other one beyond chance. docs/evaluation.md describes data and metrics.

    Example: torchmar evaluate digits-2.0.mar --data data/test --against digits-1.0.mar --report page.html
    """
    from .. import evaluate as lib
    from ..dataset import read_dataset, sample
    from ..mar import verify

    if report is not None and (why := why_no_file(report)):
        raise DatasetError(f"--report {report}: cannot be written: {why}")
    archive = verify(mar)
    other = None if against is None else verify(against)
    examples = sample(read_dataset(data, label=label), limit, seed)
    with ExitStack() as stack:
        inference = stack.enter_context(server.connect()).inference if served else None
        step = stack.enter_context(progress(str(mar)))
        result = lib.evaluate(
            archive,
            examples,
            against=other,
            inference=inference,
            metric=metric,
            seed=seed,
            timeout=server.timeout,
            progress=step,
        )
    error = None
    if report is not None:
        try:
            of = f"{data} ({len(examples)} requests{f', drawn by seed {seed}' if limit else ''})"
            lib.write_page(report, archive, of + (", asked of a server" if served else ""), result)
        except OSError as failed:  # still show what was found
            error = as_torchmars(failed)
    is_worse = result.against is not None and result.against.verdict == "worse"
    show = partial(_print, archive, result, report)
    facts = {**_facts(archive, data, result), "report": report}
    return Shown(facts, show, error=error, code=int(bool(result.failed) or is_worse))


def _facts(archive: Archive, data: Path, result: Evaluation) -> dict[str, Any]:
    found = asdict(result)
    if result.against is not None:
        found["against"] |= {"verdict": result.against.verdict}
    return {"path": archive.path, "name": archive.name, "version": archive.version, "data": data, **found}


def _print(archive: Archive, result: Evaluation, report: Path | None) -> None:
    from ..evaluate import score_rows, sentence, slice_rows, unknown_labels

    count = "1 request" if result.count == 1 else f"{result.count} requests"
    out.print(f"[bold]{escape(str(archive.path))}[/bold]  {count}, {result.kind}")
    print_table("", ("metric", "value>", "95 % interval"), score_rows(result.scores))
    if worse := slice_rows(result, only_worse=True):
        out.print()
        print_table("Worse than the rest", ("requests", "count>", "value>", "95 % interval"), worse)
    if result.against is not None:
        out.print(f"\n[bold]{escape(sentence(result.against))}[/bold]")
        both = result.against.count
        of = "" if both == result.count else " that both answered"
        out.print(f"{result.against.differing} of {both} answers{of} differ")
    if result.unknown:
        out.print(f"[yellow]{escape(unknown_labels(result))}[/yellow]")
    for name, why in result.failed[:_MOST_FAILED]:
        out.print(f"[red]not answered[/red] {escape(name)}: {escape(why)}")
    if len(result.failed) > _MOST_FAILED:
        out.print(f"[red]not answered[/red] {len(result.failed) - _MOST_FAILED} more")
    if report is not None:
        out.print(f"report: {escape(str(report))}")
