"""Defines `torchmar maintain`, which keeps a served model good: from new data to a released candidate."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ._command import Shown
from ._events import EventPrinter
from ._options import Option
from ._output import escape, out, print_lines, print_table
from ._servers import FleetOptions
from ._under_way import progress
from .releasing import shown_result

if TYPE_CHECKING:
    from ..maintain import Maintained
    from ..mar import Archive
    from ..release import Fleet, Result

_CODES = {"nothing": 0, "released": 10, "candidate": 11, "refused": 12, "alarm": 13}
_LIMITS, _TRAINING = "Thresholds", "Training"


@dataclass(frozen=True)
class MaintainOptions:
    """The options of a run: what is tolerated, and how a candidate is trained."""

    drop: Annotated[
        float, Option("Share of its value that the main metric may be worse.", _LIMITS, min=0, max=1)
    ] = 0.02
    refused: Annotated[float, Option("Share of new requests that may be refused.", _LIMITS, min=0, max=1)] = (
        0.05
    )
    least: Annotated[int, Option("Labelled requests that training needs.", _LIMITS, min=2)] = 50
    held_out: Annotated[
        float, Option("Share of the new requests that judges alone.", _LIMITS, min=0.05, max=0.9)
    ] = 0.3
    epochs: Annotated[int, Option("The most epochs.", _TRAINING, min=1)] = 20
    batch_size: Annotated[int, Option("Examples in a step.", _TRAINING, min=1)] = 32
    learning_rate: Annotated[float, Option("The first one.", _TRAINING, min=0)] = 1e-3
    distill: Annotated[
        float,
        Option("Share of the loss that keeps the outputs near those before.", _TRAINING, min=0, max=0.99),
    ] = 0.0
    augment: Annotated[str, Option("What changes examples at random, as for finetune.", _TRAINING)] = ""
    seed: Annotated[int, Option("Seed of everything that is drawn.", _TRAINING, min=0)] = 0


def maintain(
    model: Annotated[Path, "The model folder that the served version was built from."],
    options: MaintainOptions,
    servers: FleetOptions,
    printer: EventPrinter,
    *,
    data: Annotated[Path, "New requests, with labels or without: a folder, or a .csv, .jsonl or .parquet."],
    train: Annotated[Path | None, "What the model was trained on."] = None,
    test: Annotated[Path | None, "What nothing was trained on, of the same origin as --train."] = None,
    label: Annotated[str, "The column of a table that holds the labels."] = "label",
    archive: Annotated[
        Path | None, "The archive that is served; by default a server is asked for it."
    ] = None,
    weights: Annotated[
        str | None, "The weights that it was built from; by default those that an earlier run kept."
    ] = None,
    work: Annotated[Path | None, "Folder of all runs; by default .maintain beside model.yaml."] = None,
    yes: Annotated[bool, "Release a candidate that is good enough."] = False,
) -> Shown:
    """Look at new data, and train, compress and judge a candidate where the served version has become worse.

    New requests are compared with the reference in the archive, and with labels the served version is
    evaluated on them. What follows is decided by thresholds; a candidate that is no better on the new data,
    or worse on the old, is refused. With --yes it is released, through the gate. Exit code 0: nothing to do;
    10: released; 11: a candidate is in the store; 12: it was refused; 13: alarm, somebody has to look. A run
    that was killed goes on when the same is typed again. docs/maintenance.md describes the rules.

    Example: torchmar maintain models/digits --data data/new --train data/train --test data/test --yes
    """
    from .. import maintain as lib
    from ..dataset import read_dataset
    from ..finetune import TrainingConfig
    from ..mar import verify
    from ..spec import load_model

    source = load_model(model)
    found_data = lib.Data(
        *(() if path is None else read_dataset(path, label=label) for path in (data, train, test))
    )
    settings = lib.Settings(
        limits=lib.Thresholds(options.drop, options.refused, options.least),
        training=TrainingConfig(
            epochs=options.epochs,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            distill=options.distill,
            augment=options.augment,
            seed=options.seed,
        ),
        held_out=options.held_out,
        seed=options.seed,
    )

    def run(parent: Archive, store: Path) -> tuple[Maintained, Path]:
        with progress(source.spec.name) as step:
            found = lib.maintain(
                source, parent, found_data, store, settings, work=work, weights=weights, progress=step
            )
        return found, lib.write_report(found, parent)

    if archive is not None and not yes:
        return _shown(*run(verify(archive), servers.store or Path("model_store")), servers)
    with servers.fleet(printer) as fleet:
        name, of_runs = source.spec.name, work or source.directory / lib.WORK
        if yes and (result := lib.finish_release(fleet, name, of_runs)) is not None:
            return _released(fleet, {}, result, servers, printer)
        parent = lib.served_archive(fleet, name) if archive is None else verify(archive)
        stores = [host.store for host in fleet.hosts if host.store is not None]
        found, page = run(parent, servers.store or next(iter(stores), Path("model_store")))
        if not yes or found.archive is None:
            return _shown(found, page, servers)
        candidate = verify(found.archive)
        if why := lib.why_not_released(fleet, candidate):
            found = replace(found, outcome="alarm", reasons=(*found.reasons, why))
            return _shown(found, page, servers)
        if printer.to_people:
            _print(found, page, "")
        result = lib.release_candidate(fleet, candidate, of_runs, printer.plans_made)
        return _released(fleet, _facts(found, page), result, servers, printer)


def _released(
    fleet: Fleet, facts: dict[str, Any], result: Result, servers: FleetOptions, printer: EventPrinter
) -> Shown:
    """Return what came of a candidate's release."""
    from .. import release

    shown = shown_result(result, printer, release.write_report(fleet, result), servers.as_typed)
    facts = {**facts, "outcome": "candidate", "release": shown.facts}
    if shown.error is not None or shown.code or result.outcome != "promoted":
        return replace(shown, facts=facts)
    return replace(shown, facts={**facts, "outcome": "released"}, code=_CODES["released"])


def _shown(found: Maintained, page: Path, servers: FleetOptions) -> Shown:
    next_command = ""
    if found.archive is not None:
        next_command = f"torchmar release {shlex.quote(str(found.archive))}{servers.as_typed}"
    show = partial(_print, found, page, next_command)
    return Shown(_facts(found, page), show, code=_CODES[found.outcome])


def _facts(found: Maintained, page: Path) -> dict[str, Any]:
    from ..maintain import as_json

    return {**as_json(found), "report": page}


def _print(found: Maintained, page: Path, next_command: str) -> None:
    from ..drift import COLUMNS, drift_rows
    from ..evaluate import sentence
    from ..maintain import headline

    tone = "green" if found.outcome in {"nothing", "candidate"} else "red"
    out.print(f"[bold {tone}]{escape(headline(found))}[/bold {tone}]  ({escape(found.parent)})")
    print_lines(*(f"  {reason}" for reason in found.reasons))
    moved = [one for one in found.drifts if one.verdict != "same"]
    if moved:
        print_table("", COLUMNS, drift_rows(moved))
    for where, comparison in (("old", found.on_old), ("new", found.on_new)):
        if comparison is not None and found.outcome == "candidate":
            out.print(f"  on the {where} data {escape(sentence(comparison))}")
    out.print(f"report: {escape(page)}")
    if next_command:
        out.print(f"next: {escape(next_command)}")
