"""Release an archive: from its plan to the default version of every host, and on from an interruption."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from .. import mar
from ..compare import CLOSE, Comparator
from ..errors import (
    RegistrationPending,
    ReleaseError,
    ReleaseRefused,
    TorchmarError,
)
from ..mar import Archive
from ..measure.samples import Judgement, Sample
from ..names import name_problem, version_problem
from ._canary import CANARY, ROUTER_STEPS, no_command, options_of
from ._facts import gather_facts
from ._fleet import Fleet, ServedState, ServedVersion, observe
from ._gate import NOTHING_ASKED, CandidateRun, Traffic, request_in
from ._history import Record, history, outcome_of
from ._journal import Writer, read
from ._options import Options
from ._plan import Plan, golden_names, plan_all, why_not
from ._steps import run_step
from ._undo import undo_again, undo_all, undo_hosts, unwritten


@dataclass
class Result:
    """Holds what came of a release. Times are in seconds.

    `outcome` is promoted, nothing, failed, interrupted, inconclusive or undone. `reason` says why it was not
    promoted; of a promoted one, what is left to do. `note` says where nothing was asked of a promoted one.

    `judgements` are by host and step, `samples` and `recorded` by host: those of the default version, then of
    the candidate. `expected` are the golden answers. `is_put_back` is False where it failed and a host could
    not be put back.
    """

    id: str
    model: str
    version: str
    outcome: str
    seconds: float
    plans: tuple[Plan, ...] = ()
    reason: str = ""
    judgements: Mapping[str, Mapping[str, Judgement]] = field(default_factory=dict)
    samples: Mapping[str, tuple[Sequence[Sample], Sequence[Sample]]] = field(default_factory=dict)
    recorded: Mapping[str, tuple[Sequence[Sample], Sequence[Sample]]] = field(default_factory=dict)
    expected: Mapping[str, Any] = field(default_factory=dict)
    comparator: Comparator = CLOSE
    error: BaseException | None = None
    is_put_back: bool = True
    note: str = ""


def plan_release(fleet: Fleet, archive: Archive, options: Options) -> tuple[Plan, ...]:
    """Return what a release would do on each host; nothing is changed. Raises ClientError, ReleaseError."""
    _require_name(archive)
    past = history(fleet.journal(archive.name))
    if past.unfinished is not None:
        with fleet.locked(archive.name):  # raises where it is still running
            past.require_finished()
    return _plans(fleet, archive, options)


def _require_name(archive: Archive) -> None:
    """Raise ReleaseRefused for a name that a server could not manage, before anything is done."""
    if problem := name_problem(archive.name) or version_problem(archive.version):
        raise ReleaseRefused(f"{archive.path} is not released: {problem}. Choose another, and build it again")


def _plans(fleet: Fleet, archive: Archive, options: Options) -> tuple[Plan, ...]:
    past = history(fleet.journal(archive.name))
    past.require_finished()
    if options.canary and len(fleet.hosts) > 1:
        raise ReleaseRefused(
            "--canary is for one server at a time: release to the others when it has gone well"
        )
    for file in options.request:
        request_in(file)
    facts = [gather_facts(host, archive, options, past.desired(host.name).default) for host in fleet.hosts]
    return plan_all(archive, facts, options)


def release(
    fleet: Fleet,
    archive: Archive,
    options: Options,
    on_plans: Callable[[tuple[Plan, ...]], None] | None = None,
) -> Result:
    """Release an archive to all hosts, one after another, and put all of them back where one fails.

    `on_plans` gets the plans before anything is done. Raises ReleaseRefused before anything was done.
    Whatever goes wrong later is undone and is in the Result: its outcome is `promoted` only where every host
    has the new default.
    """
    _require_name(archive)
    begin = fleet.clock()
    with fleet.locked(archive.name):
        plans = _plans(fleet, archive, options)
        if on_plans is not None:
            on_plans(plans)
        error = why_not(plans)
        if isinstance(error, ReleaseRefused):
            raise error
        if error is not None or not any(one.steps for one in plans):
            outcome, reason = ("nothing", "") if error is None else ("inconclusive", str(error))
            seconds = fleet.clock() - begin
            return Result("", archive.name, archive.version, outcome, seconds, plans, reason)
        served = {host.name: observe(host.server, archive.name) for host in fleet.hosts}
        writer = fleet.begin(
            archive.name,
            "release",
            served,
            hosts=[one.host for one in plans if one.steps],
            version=archive.version,
            file=plans[0].file,
            sha256=archive.sha256,
            archive=str(archive.path.resolve()),
            options=options.as_json(),
            workers={one.host: one.workers for one in plans},
            steps={one.host: [step.name for step in one.steps] for one in plans},
        )
        for name, one in served.items():
            writer.write("served", name, **one.as_json())
        fleet = replace(fleet, nginx_reload=options.nginx_reload)
        return _carry_out(fleet, writer, archive, options, begin, plans)


def resume(fleet: Fleet, model: str) -> Result:
    """Go on with a release that was interrupted; where its undoing was begun, finish that.

    Raises ReleaseError where none is unfinished, where the server was restarted meanwhile, and where a router
    must be told and the fleet has no command for it.
    """
    journal = fleet.journal(model)
    begin = fleet.clock()
    journal.require_exists()
    with fleet.locked(model):
        record = history(journal).unfinished
        if record is None:
            raise ReleaseError(f"{model}: no release is unfinished; `torchmar status` shows what is served")
        writer = fleet.writer(model, record.id)
        if record.is_undoing:
            reason = undo_all(fleet, writer, record)
            return Result(record.id, model, record.version, "undone", fleet.clock() - begin, reason=reason)
        if record.has_planned(*ROUTER_STEPS) and (lacking := no_command(fleet, record)):
            raise ReleaseError(f"{model}: the release of {record.version} has a canary: {lacking}")
        if lost := [f"{name}: {fleet.missing[name]}" for name in record.hosts if name in fleet.missing]:
            what = f"{model}: the release of {record.version} cannot go on without all of its servers"
            undo = f"`torchmar rollback {model}` undoes it on the others"
            raise ReleaseError("\n  ".join([what, *lost, undo]))
        for host in map(fleet.host, record.hosts):
            before, now = record.served_before(host.name, model), observe(host.server, model)
            if before.default is not None and now.get(before.default) is None:
                raise ReleaseError(
                    f"{host.name} no longer serves {model} {before.default}: was the server restarted? "
                    f"`torchmar reconcile {model}` brings it back, then resume"
                )
        # An archive that only a journal names is not loaded here: that would run its code.
        options = replace(options_of(fleet, record), load=False)
        return _carry_out(fleet, writer, _archive_of(fleet, record), options, begin, ())


def _archive_of(fleet: Fleet, record: Record) -> Archive:
    """Return the archive that was being released: where it came from, or a copy in a store.

    Raises ReleaseError where it is gone, and where the journal says too little to go on.
    """
    hosts = record.steps.keys() & record.workers.keys()
    if not (record.archive and record.sha256 and hosts.issuperset(record.hosts)):
        raise ReleaseError(
            f"the journal tells too little of the release of {record.version} ({record.id}) to go on: "
            "`torchmar rollback` undoes it"
        )
    places = [Path(record.archive)]
    places += [host.store / record.require_file() for host in map(fleet.host, record.hosts) if host.store]
    for path in places:
        with suppress(TorchmarError, OSError):
            archive = mar.verify(path)
            if archive.sha256 == record.sha256:
                return archive
    raise ReleaseError(
        f"the archive of this release is gone or was changed ({', '.join(map(str, places))}): "
        f"`torchmar rollback` undoes the release"
    )


# -- carrying it out ----------------------------------------------------------------------------


def _carry_out(
    fleet: Fleet, writer: Writer, archive: Archive, options: Options, begin: float, plans: tuple[Plan, ...]
) -> Result:
    """Run all steps that are not done yet, one host after another. Ctrl-C ends the step that is under way."""
    record = _record(writer)
    runs = {
        name: CandidateRun(
            file=record.require_file(),
            workers=record.workers[name],
            default=record.served_before(name, archive.name).default,
            host=fleet.host(name),
            archive=archive,
            options=options,
            clock=fleet.clock,
            sleep=fleet.sleep,
            before=_traffic(record, name),
        )
        for name in record.hosts
    }
    result = Result(record.id, archive.name, archive.version, "promoted", 0.0, plans)
    try:
        for run in runs.values():
            _on_host(fleet, writer, record, run)
        result.note = _unasked(record, archive, options)
        result.reason = _finished(writer, result.note)
    except BaseException as error:
        is_promoted = isinstance(error, KeyboardInterrupt) and _record(writer).outcome is not None
        if not is_promoted:  # else Ctrl-C came when that was noted already
            result.error = error
            result.outcome = outcome_of(error)
            result.is_put_back, result.reason = _put_back(fleet, writer, error, result.outcome)
        if not isinstance(error, (TorchmarError, KeyboardInterrupt)):
            raise  # a mistake of ours, and no result
    result.seconds = fleet.clock() - begin
    result.judgements = {name: run.judgements for name, run in runs.items()}
    result.samples = {name: (run.default_samples, run.candidate_samples) for name, run in runs.items()}
    result.recorded = {name: run.shadow_samples for name, run in runs.items()}
    with suppress(TorchmarError):
        run = next(iter(runs.values()))
        result.expected, result.comparator = run.expected, run.comparator
    return result


def _unasked(record: Record, archive: Archive, options: Options) -> str:
    """Return that nothing was asked of what was promoted; '' where something was."""
    by_others = record.has_planned("shadow", CANARY)
    return "" if by_others or options.request or golden_names(archive) else NOTHING_ASKED


def _finished(writer: Writer, note: str) -> str:
    """Note that it is promoted; return why not: a journal that cannot be written undoes no success."""
    try:
        writer.write("finished", outcome="promoted", **({"note": note} if note else {}))
    except ReleaseError as error:
        return f"it is promoted, and that could not be noted: {error}"
    return ""


def _traffic(record: Record, host: str) -> Traffic | None:
    """Return what the gate counted there before the switch, for a watch after `resume`."""
    counted = record.traffic.get(host)
    return None if counted is None else read(Traffic, counted)


def _on_host(fleet: Fleet, writer: Writer, record: Record, run: CandidateRun) -> None:
    """Run the steps of one host. Those before the switch run again: much may have changed since."""
    host, step = run.host.name, "look"
    try:
        # Somebody may have set another default since, or the server forgotten this one.
        was_switched = (host, "default") in record.done
        is_switched = was_switched and fleet.served(run.host, run.model).default == run.version
        for step in record.steps[host]:
            if (host, step) in record.done and is_switched:
                continue
            run.sent, run.on_progress = 0, partial(fleet.on_progress, host, step)
            with writer.step(host, step) as data:
                data["text"] = run_step(run, step)
                data["sent"] = run.sent
                if step == "gate" and run.before is not None:
                    data["traffic"] = asdict(run.before)  # for a watch after `resume`
            if step == "default":
                writer.write("served", host, **_served(fleet, record, run))
        writer.write("served", host, **_served(fleet, record, run))
    except BaseException as error:
        # What was interrupted while the server was to register it may be registered still.
        is_pending = isinstance(error, (RegistrationPending, KeyboardInterrupt))
        more = {"silent": True} if is_pending else {}
        writer.write("failed", host, step, reason=_reason(error), sent=run.sent, **more)
        raise


def _served(fleet: Fleet, record: Record, run: CandidateRun) -> dict[str, Any]:
    """Return what a host serves with the candidate as its default; where it does not answer, as expected."""
    before = record.served_before(run.host.name, run.model).without(run.version)
    candidate = ServedVersion(run.version, run.file, run.workers, run.workers)
    expected = ServedState(run.model, run.version, (*before.versions, candidate))
    return fleet.served(run.host, run.model, expected).as_json()


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted (Ctrl-C)"
    return str(error) if isinstance(error, TorchmarError) else f"{type(error).__name__}: {error}"


def _put_back(fleet: Fleet, writer: Writer, error: BaseException, outcome: str) -> tuple[bool, str]:
    """Undo everything; return whether all of it was undone, why it failed and what stays."""
    reason, model = _reason(error), writer.model
    try:
        left, _ = undo_hosts(fleet, writer, _record(writer))
    except KeyboardInterrupt:
        return False, f"{reason}, and so was putting it back: `torchmar rollback {model}` goes on"
    if left:
        return False, "\n".join([reason, *left, undo_again(model)])
    writer.write("finished", outcome=outcome, reason=reason)
    return True, "\n".join(filter(None, [reason, unwritten(writer)]))


def _record(writer: Writer) -> Record:
    return history(writer.journal).record(writer.id)
