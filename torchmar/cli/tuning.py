"""Defines `torchmar tune`, which finds serving settings and writes them into model.yaml."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import TorchmarError, TuneError
from ..files import why_no_file
from ..processes import handling
from ._command import Shown
from ._options import Option
from ._output import as_torchmars, escape, out, print_lines, print_table
from ._under_way import progress

if TYPE_CHECKING:
    from ..measure.tune import Tuned


def tune(
    mar: Annotated[Path, "A .mar, or a folder with the same files."],
    *,
    p99: Annotated[str, "Time within which 99 of 100 answers must come, such as 80ms or 0.2s."],
    memory: Annotated[
        str | None, "Memory (PSS) that frontend and workers may hold, such as 512M, 2G or 2Gi."
    ] = None,
    clients: Annotated[
        int, Option("Clients at once; each sends its next request after an answer.", min=1)
    ] = 8,
    seconds: Annotated[float, Option("Seconds to measure each configuration.", min=0.05)] = 3.0,
    body: Annotated[
        list[Path] | None,
        typer.Option(
            "--request",
            "--body",
            help="File of a request to send; may be repeated. Default: the golden requests.",
        ),
    ] = None,
    model: Annotated[Path | None, "The model folder to write to. Default: models/NAME, if it exists."] = None,
    max_workers: Annotated[int | None, Option("Largest number of workers.", min=1)] = None,
    max_batch: Annotated[int, Option("Largest batch.", min=1)] = 16,
    rounds: Annotated[int, Option("Final rounds of the default against the winner.", min=2)] = 3,
    report: Annotated[Path | None, "Write a page (.html) with a plot and a table."] = None,
    dry_run: Annotated[bool, "Leave model.yaml as it is."] = False,
) -> Shown:
    """Find workers, threads, batch size and delay for this machine, and write them into model.yaml.

    A real TorchServe serves each configuration under load. The highest rate that keeps --p99 wins, if it
    then beats the archive's own configuration by more than chance; docs/tuning.md describes the search. Let
    nothing else run on the machine meanwhile. Exit code 1 if no configuration keeps the limits.

    Example: torchmar tune model_store/efficientnet_lite0-2.0.mar --p99 80ms --report tuned.html
    """
    from ..mar import verify
    from ..measure import tune as lib

    limits = lib.Limits(lib.milliseconds(p99), None if memory is None else lib.size_in_bytes(memory))
    if report is not None and (why := why_no_file(report)):
        raise TuneError(f"--report {report}: cannot be written: {why}")
    archive = verify(mar)
    file = lib.model_yaml_of(archive.name, model)
    if file is not None and not dry_run:
        lib.require_changeable(file)
    with handling(_end_once, *_SIGNALS), progress(mar.name) as step:
        tuned = lib.tune(
            archive,
            limits,
            bodies=tuple(body or ()),
            settings=lib.Settings(clients, seconds),
            max_workers=max_workers,
            max_batch=max_batch,
            rounds=rounds,
            environment=os.environ,
            progress=lambda done, of, what: step(f"{what} ({done} done, {of} at most)"),
        )
    written = tuned.winner is not None and file is not None and not dry_run
    try:
        if report is not None:
            lib.write_report(report, tuned, shlex.join(["torchmar", *sys.argv[1:]]))
        if tuned.winner is not None and file is not None and not dry_run:
            lib.write(file, tuned.winner)
    except (OSError, TorchmarError) as error:  # still show what took minutes to find
        return Shown(_facts(tuned, False, None), partial(_print, tuned, []), error=as_torchmars(error))
    show = partial(_print, tuned, list(_what_next(tuned, file, written, report)))
    return Shown(_facts(tuned, written, report), show, code=1 if tuned.kind == "none" else 0)


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _end_once(_number: int, _frame: Any) -> None:
    """End on the first Ctrl-C or SIGTERM; later ones do not keep the end from stopping the server."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _print(tuned: Tuned, what_next: Sequence[str]) -> None:
    from ..measure.tune import COLUMNS, FINAL_COLUMNS, final_rows, rows_of, sentence

    print_table("All configurations", COLUMNS, rows_of(tuned))
    if finals := final_rows(tuned):
        out.print()
        print_table("In turn", FINAL_COLUMNS, finals)
    out.print(f"\n[bold]{escape(sentence(tuned))}[/bold]")
    print_lines(*what_next)


def _what_next(tuned: Tuned, file: Path | None, written: bool, report: Path | None) -> Iterator[str]:
    from ..measure.tune import lines_of

    if tuned.winner is not None:
        if file is None:
            yield "for model.yaml (give --model models/NAME to have it written):"
        else:
            yield f"{file}: {'now says' if written else 'unchanged (--dry-run); it would say'}"
        yield f"  {lines_of(tuned.winner)}"
        if written and file is not None:
            folder = shlex.quote(str(file.parent))
            yield f"raise its `version`, and build it again: torchmar archive {folder}"
    if report is not None:
        yield f"report: {report}"


def _facts(tuned: Tuned, written: bool, report: Path | None) -> dict[str, Any]:
    from ..measure.tune import frontier, sentence, settings_of

    edge = [trial.candidate for trial in frontier(tuned.trials)]
    serving = None if tuned.winner is None else settings_of(tuned.winner)
    summary = {"result": tuned.kind, "says": sentence(tuned), "serving": serving, "written": written}
    return {**summary, "report": report, "frontier": edge, **asdict(tuned)}
