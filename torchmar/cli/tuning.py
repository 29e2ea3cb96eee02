"""Defines `torchmar tune`, which finds serving settings and writes them into model.yaml."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import TorchmarError, TuneError
from ..processes import handling
from ..release._options import Option
from ._command import Shown, add
from ._output import as_torchmars, escape, out, print_table
from ._under_way import progress

if TYPE_CHECKING:
    from ..measure.tune import Tuned


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    add(app, "Models and archives", tune)


def tune(
    mar: Annotated[Path, "A .mar, or a folder with the same files."],
    p99: Annotated[
        str, typer.Option(help="Time within which 99 of 100 answers must come, such as 80ms or 0.2s.")
    ],
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
    from ..measure.tune import Limits, Settings, milliseconds, size_in_bytes, write_report
    from ..measure.tune import tune as run

    limits = Limits(milliseconds(p99), None if memory is None else size_in_bytes(memory))
    _require_report(report)
    archive = verify(mar)
    file = _model_yaml(archive.name, model, changes=not dry_run)
    with _ends_in_order(), progress(mar.name) as step:
        tuned = run(
            archive,
            limits,
            bodies=tuple(body or ()),
            settings=Settings(clients, seconds),
            max_workers=max_workers,
            max_batch=max_batch,
            rounds=rounds,
            environment=os.environ,
            progress=lambda done, of, what: step(f"{what} ({done} done, {of} at most)"),
        )
    try:
        if report is not None:
            write_report(report, tuned, shlex.join(["torchmar", *sys.argv[1:]]))
        written = _write(tuned, None if dry_run else file)
    except (OSError, TorchmarError) as error:  # still show what took minutes to find
        failure = as_torchmars(error)
        return Shown(_facts(tuned, False, None), partial(_print, tuned), error=failure)
    show = partial(_print_all, tuned, file, written, report)
    return Shown(_facts(tuned, written, report), show, code=1 if tuned.kind == "none" else 0)


def _require_report(report: Path | None) -> None:
    """Raise TuneError if the page cannot be written, before anything is measured."""
    if report is not None:
        if not report.absolute().parent.is_dir():
            raise TuneError(f"--report {report}: no such folder")
        if report.is_dir() or not os.access(report if report.exists() else report.absolute().parent, os.W_OK):
            raise TuneError(f"--report {report}: cannot be written")


def _model_yaml(name: str, model: Path | None, *, changes: bool) -> Path | None:
    """Return the model.yaml to write to. Raises SpecError, TuneError, before anything is measured."""
    from ..measure.tune import require_changeable
    from ..spec import SPEC_FILE, load_model

    if model is None:
        model = Path("models") / name
        if not (model / SPEC_FILE).is_file():
            return None
    source = load_model(model)
    if source.spec.name != name:
        raise TuneError(
            f"--model {model}: it is the folder of {source.spec.name!r}, but the archive is of {name!r}"
        )
    if changes:
        require_changeable(source.file)
    return source.file


def _write(tuned: Tuned, file: Path | None) -> bool:
    from ..measure.tune import write

    if tuned.winner is None or file is None:
        return False
    write(file, tuned.winner)
    return True


@contextmanager
def _ends_in_order() -> Iterator[None]:
    """End the block on the first Ctrl-C or SIGTERM; later ones do not keep it from stopping the server."""
    signals = (signal.SIGINT, signal.SIGTERM)

    def end(_number: int, _frame: Any) -> None:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    with handling(end, *signals):
        yield


def _print_all(tuned: Tuned, file: Path | None, written: bool, report: Path | None) -> None:
    _print(tuned)
    _print_what_next(tuned, file, written, report)


def _print(tuned: Tuned) -> None:
    from ..measure.tune import COLUMNS, FINAL_COLUMNS, final_rows, rows_of, sentence

    print_table("All configurations", COLUMNS, rows_of(tuned))
    finals = final_rows(tuned)
    if finals:
        out.print()
        print_table("In turn", FINAL_COLUMNS, finals)
    out.print(f"\n[bold]{escape(sentence(tuned))}[/bold]")


def _print_what_next(tuned: Tuned, file: Path | None, written: bool, report: Path | None) -> None:
    from ..measure.tune import lines_of

    if tuned.winner is not None:
        if written:
            out.print(f"{escape(str(file))}: now says")
        elif file is not None:
            out.print(f"{escape(str(file))}: unchanged (--dry-run); it would say")
        else:
            out.print("for model.yaml (give --model models/NAME to have it written):")
        out.print(f"  {escape(lines_of(tuned.winner))}")
        if written and file is not None:
            folder = escape(shlex.quote(str(file.parent)))
            out.print(f"raise its `version`, and build it again: torchmar archive {folder}")
    if report is not None:
        out.print(f"report: {escape(str(report))}")


def _facts(tuned: Tuned, written: bool, report: Path | None) -> dict[str, Any]:
    from ..measure.tune import frontier, sentence, settings_of

    edge = [asdict(trial.candidate) for trial in frontier(tuned.trials)]
    serving = None if tuned.winner is None else settings_of(tuned.winner)
    summary = {"result": tuned.kind, "says": sentence(tuned), "serving": serving, "written": written}
    return {**summary, "report": report, "frontier": edge, **asdict(tuned)}
