"""Defines `torchmar compress`, which measures how a model can be compressed, and chooses."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ..errors import ExportError, SpecError, TorchmarError
from ..files import why_no_file
from ..names import shown
from ._command import Shown
from ._options import Option
from ._output import after_ctrl_c, as_torchmars, escape, out, print_lines, print_table
from ._price import price_lines
from ._under_way import progress

if TYPE_CHECKING:
    from ..compress import Compressed
    from ..compress.search import Point, Searched
    from ..export import Weights
    from ..spec import ModelSource

_WIDEST = 500  # characters of a line
_HALF = 0.5  # a share to prune, which the search tries anyway


def compress(
    model: Annotated[Path, "A model folder with a model.yaml."],
    *,
    search: Annotated[bool, "Measure all ways that suit the model, and choose one."] = False,
    budget: Annotated[str, "With --search: about how long to measure, as 90s, 10m or 1h."] = "10m",
    data: Annotated[
        str | None, "Requests in the model's folder; by default `compress.data` of model.yaml."
    ] = None,
    train: Annotated[
        str | None, "Labelled requests there to train on after pruning; by default `compress.train`."
    ] = None,
    only: Annotated[list[str] | None, "With --search: try this point alone; may be repeated."] = None,
    choose: Annotated[str | None, "With --search: choose this point, whatever `accept` takes."] = None,
    results: Annotated[
        Path | None,
        "File that keeps what was measured; by default .compress-search.json beside model.yaml.",
    ] = None,
    weights: Annotated[
        str, "`pretrained`, `random`, or a file with a state dict or a checkpoint."
    ] = "pretrained",
    seed: Annotated[int, Option("Seed of random weights.", min=0, max=2**63)] = 0,
    seconds: Annotated[float, Option("Seconds to time each model at each batch size.", min=0.01)] = 0.5,
    report: Annotated[Path | None, "With --search: write a page (.html) with plots and the table."] = None,
    dry_run: Annotated[bool, "Leave model.yaml as it is."] = False,
) -> Shown:
    """Show what compressing a model costs and gains; with --search, find the best way, and write it down.

    A search measures each way in turn with the uncompressed model: size, latency, cost, agreement, metric.
    The fastest that `accept` takes is written into model.yaml, if it is not slower than the model as it is.
    Typed again, a search goes on where it ended. Let nothing else run on the machine meanwhile. Exit code 1
    if nothing is chosen; docs/compression.md describes the search.

    Example: torchmar compress models/digits --search --data data/test --report frontier.html
    """
    from ..export import Weights

    source = _with_data(model, data, train)
    given = Weights(weights, seed)
    if not search:
        with progress(source.spec.name) as step:
            found = _priced(source, given, seconds, step)
        return Shown({"price": found.price, "speed": found.speed}, partial(_print_price, found))
    if report is not None and (why := why_no_file(report)):
        raise ExportError(f"--report {report}: cannot be written: {why}")
    kept = results or source.file.parent / ".compress-search.json"
    return _searched(source, given, budget, kept, tuple(only or ()), choose, seconds, report, dry_run)


def _with_data(model: Path, data: str | None, train: str | None) -> ModelSource:
    """Return the model with `compress`: that of its model.yaml, with these data. Raises ExportError."""
    from ..spec import load_model

    given = None
    try:
        source = load_model(model)
        given = source.spec.compress
    except SpecError:
        if data is None:
            raise  # else `accept` may have lines for it already
    if data is None and train is None and given is not None:
        return source
    if given is None and data is None:
        what = f"{source.file} has no `compress`, so it is not known what the cost is measured on"
        raise ExportError(f"give --data, a folder or table of requests beside model.yaml: {what}")
    section: dict[str, Any] = {"quantize": "int8"} if given is None else asdict(given)
    section |= {"data": data or section.get("data"), "train": train or section.get("train")}
    if train is not None and not section.get("prune"):
        section["prune"] = _HALF
    return load_model(model, {"compress": {key: one for key, one in section.items() if one is not None}})


def _priced(source: ModelSource, weights: Weights, seconds: float, step: Any) -> Compressed:
    """Return what model.yaml's own `compress` costs and gains; nothing is written."""
    import tempfile

    from ..compress import compress as lib
    from ..export import build_artifacts, prepared

    source = prepared(source)
    with tempfile.TemporaryDirectory(prefix="torchmar-compress-") as folder:
        artifacts = build_artifacts(source, weights, Path(folder), step)
        return lib(source, artifacts, Path(folder), step, seconds=seconds)


def _print_price(found: Compressed) -> None:
    print_lines(*(shown(line, _WIDEST) for line in price_lines(asdict(found.price), found.speed)))
    print_lines(*(f"note: {shown(note, _WIDEST)}" for note in found.artifacts.notes))


def _searched(
    source: ModelSource,
    weights: Weights,
    budget: str,
    results: Path,
    only: tuple[str, ...],
    choose: str | None,
    seconds: float,
    report: Path | None,
    dry_run: bool,
) -> Shown:
    from ..compress import search as lib

    given = source.spec.compress
    assert given is not None
    limit = lib.seconds_of(budget)
    names = [point.name for point in lib.points_of(source.spec)]
    if unknown := [name for name in only if name not in names]:
        raise ExportError(f"--only {unknown[0]}: expected one of {', '.join(names)}")
    if choose is not None and choose.removesuffix("-mixed") not in names:
        raise ExportError(f"--choose {choose}: expected one of {', '.join(names)}")
    if not dry_run:
        lib.require_changeable(source.file, given)
    state = f"what was measured is in {results}; type the same again to go on"
    with after_ctrl_c(state), progress(source.spec.name) as step:
        found = lib.search(source, limit, results, weights=weights, seconds=seconds, only=only, progress=step)
    point = _chosen(found, choose)
    name, error, written = None if point is None else point.name, None, False
    try:
        if report is not None:
            lib.write_report(report, found, name, shlex.join(["torchmar", *sys.argv[1:]]))
        if point is not None and not dry_run:
            lib.write(source.file, point, given)
            written = True
    except (OSError, TorchmarError) as failed:  # still show what took minutes to find
        error = as_torchmars(failed)
    next_lines = [] if point is None else list(_what_next(source, point, written))
    show = partial(_print, found, name, [*next_lines, *([f"report: {report}"] if report else [])])
    facts = {**_facts(found, name), "written": written, "report": report}
    return Shown(facts, show, error=error, code=0 if point is not None else 1)


def _chosen(found: Searched, choose: str | None) -> Point | None:
    """Return the point that was asked for, or the best by `accept`. Raises DatasetError."""
    if choose is not None:
        return found.named(choose).point
    best = found.best
    return None if best is None or best.name == "none" else found.named(best.name).point


def _print(found: Searched, chosen: str | None, what_next: Sequence[str]) -> None:
    from ..compress.search import columns, rows_of, sentence

    print_table("All points", columns(found), rows_of(found, chosen))
    out.print(f"\n[bold]{escape(sentence(found, chosen))}[/bold]")
    if found.left:
        out.print(f"{len(found.left)} points were not measured; type the same again to go on")
    print_lines(*what_next)


def _what_next(source: ModelSource, point: Point, written: bool) -> Iterator[str]:
    from ..compress.search import lines_of

    given = source.spec.compress
    assert given is not None
    yield f"{source.file}: {'now says' if written else 'unchanged; it would say'}"
    yield f"  {lines_of(point, given)}"
    if written:
        named = source.file.parent if source.file.name == "model.yaml" else source.file
        yield f"raise its `version`, and build it again: torchmar archive {shlex.quote(str(named))}"


def _facts(found: Searched, chosen: str | None) -> dict[str, Any]:
    from ..compress.search import frontier, sentence

    figures = {one.name: one for one in found.figures}
    on_edge = [one.name for one in frontier(found.figures)]
    trials = [
        {
            "name": one.name,
            **asdict(one),
            "wrong": one.wrong(found.accepts),
            "time": figures[one.name].time if one.name in figures else None,
            "error": figures[one.name].error if one.name in figures else None,
            "accepted": figures[one.name].accepted if one.name in figures else None,
        }
        for one in found.trials
    ]
    facts = {key: getattr(found, key) for key in ("name", "version", "processor", "batch", "left", "reused")}
    says = {"chosen": chosen, "says": sentence(found, chosen), "frontier": on_edge}
    return {**facts, **says, "trials": trials, "results": found.results, "seconds": found.seconds}
