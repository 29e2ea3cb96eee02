"""From an archive to the default version of every host; and on from wherever that was interrupted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import mar
from ..compare import CLOSE, Comparator
from ..errors import RegistrationPending, ReleaseError, ReleaseRefused, TorchmarError
from ..mar import Archive
from ..measure.samples import Judgement, Sample
from ..names import name_problem, version_problem
from ._canary import CANARY, no_command, options_of, tells_nginx
from ._fleet import Fleet, Writer
from ._gate import NOTHING_ASKED
from ._history import Record, history, outcome_of
from ._host import gather_facts, observe
from ._interrupts import Stopped, noted_interrupts, until
from ._journal import known_to
from ._options import Options
from ._plan import HAVE_GOLDEN, Plan, golden_names, plan_all
from ._state import ServedState, ServedVersion
from ._steps import take
from ._undo import defaults_back, undo_hosts
from ._watch import Traffic
from ._work import Work, request_in


@dataclass
class Result:
    """What came of it. `outcome`: promoted, nothing, failed, interrupted, inconclusive or undone. Seconds.

    `reason` says why it was not promoted; or, where it was, what else is to be done. `note` says where it was
    promoted and nothing had been asked of it.

    By host: `judgements` of each step, `samples` of golden requests and `recorded` ones, those of the
    default version first. `expected` are the golden answers.

    `is_put_back` is False where it failed and not every host could be put back: `reason` says which.
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
    """What a release would do on each host; nothing is changed. Raises ClientError, ReleaseError."""
    _require_name(archive)
    journal = fleet.journal(archive.name)
    past = history(journal)
    if past.unfinished is not None:
        with journal.locked():  # or else it is under way, and the error says in which process
            past.require_finished(archive.name)
    return _plans(fleet, archive, options)


def require_no_refusals(plans: Sequence[Plan]) -> None:
    """Raises ReleaseRefused with all that the plans refuse."""
    refusals = [f"{one.host}: {text}" for one in plans for text in one.refusals]
    if refusals:
        lines = "\n  ".join(refusals)
        raise ReleaseRefused(f"{plans[0].model} {plans[0].version} is not released:\n  {lines}")


def why_untold(plans: Sequence[Plan]) -> str:
    """Why nothing is done, as the gate could not tell whether it is good, and what to do; '' where it may."""
    for one in plans:
        if one.untold:
            return (
                f"{one.model} {one.version}: nothing was asked of it: {one.untold}. To have it judged, "
                f"{HAVE_GOLDEN}\n  It is not promoted unless told to: --promote-inconclusive"
            )
    return ""


def _require_name(archive: Archive) -> None:
    """Raises ReleaseRefused before anything is asked of a server, or written, under such a name."""
    if problem := name_problem(archive.name) or version_problem(archive.version):
        raise ReleaseRefused(f"{archive.path} is not released: {problem}. Choose another, and build it again")


def _plans(fleet: Fleet, archive: Archive, options: Options) -> tuple[Plan, ...]:
    past = history(fleet.journal(archive.name))
    past.require_finished(archive.name)
    if options.canary and len(fleet.hosts) > 1:
        raise ReleaseRefused(
            "--canary is for one server at a time: release to the others when it has gone well"
        )
    for file in options.request:
        request_in(file)
    facts = []
    for host in fleet.hosts:
        meant = past.served.get(host.name)
        seen = gather_facts(host, archive, options)
        facts.append(replace(seen, meant=None if meant is None else meant.default))
    return plan_all(archive, facts, options)


def release(
    fleet: Fleet,
    archive: Archive,
    options: Options,
    on_plans: Callable[[tuple[Plan, ...]], None] | None = None,
) -> Result:
    """Release an archive to all hosts, one after another, and put all of them back where one fails.

    `on_plans` is told what will be done before anything is, or why nothing will be. Raises ReleaseRefused
    before anything was done. Whatever goes wrong later is undone, and told in the Result: its outcome is
    `promoted` only where every host has the new default.
    """
    _require_name(archive)
    journal = fleet.journal(archive.name)
    begin = fleet.clock()
    with journal.locked():
        plans = _plans(fleet, archive, options)
        if on_plans is not None:
            on_plans(plans)
        require_no_refusals(plans)
        if reason := why_untold(plans):
            seconds = fleet.clock() - begin
            return Result("", archive.name, archive.version, "inconclusive", seconds, plans, reason)
        if not any(one.steps for one in plans):
            return Result("", archive.name, archive.version, "nothing", fleet.clock() - begin, plans)
        served = {host.name: observe(host.server, archive.name) for host in fleet.hosts}
        writer = Writer.planned(
            fleet,
            journal,
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
        for host in fleet.hosts:
            writer.served(host, served[host.name])
        fleet = replace(fleet, nginx_reload=options.nginx_reload)
        return _carry_out(fleet, writer, archive, options, begin, plans)


def resume(fleet: Fleet, model: str) -> Result:
    """Go on with a release that was interrupted; what was begun to be undone is undone wholly.

    Raises ReleaseError where there is none, where the server was restarted meanwhile, and where nginx is to
    be told and the site has no command for it.
    """
    journal = fleet.journal(model)
    begin = fleet.clock()
    journal.require_exists()
    with journal.locked():
        record = history(journal).unfinished
        if record is None:
            raise ReleaseError(f"{model}: no release is unfinished; `torchmar status` shows what is served")
        writer = Writer(fleet, journal, record.id)
        if record.is_undoing:
            return undo_all(fleet, writer, record, begin)
        if (lacking := no_command(fleet, record)) and any(tells_nginx(one) for one in record.steps):
            raise ReleaseError(f"{model}: the release of {record.version} has a canary: {lacking}")
        if lost := [f"{name}: {fleet.missing[name]}" for name in record.hosts if name in fleet.missing]:
            what = f"{model}: the release of {record.version} cannot go on without all of its servers"
            undo = f"`torchmar rollback {model}` undoes it on the others"
            raise ReleaseError("\n  ".join([what, *lost, undo]))
        for host in fleet.hosts_of(record):
            before, now = record.served_before(host.name, model), observe(host.server, model)
            if before.default is not None and now.get(before.default) is None:
                raise ReleaseError(
                    f"{host.name} no longer serves {model} {before.default}: was the server restarted? "
                    f"`torchmar reconcile {model}` brings it back, then resume"
                )
        # An archive that only a journal names is not loaded here: that would run its code.
        options = replace(options_of(fleet, record), load=False)
        return _carry_out(fleet, writer, _archive_of(fleet, record), options, begin, ())


def undo_all(fleet: Fleet, writer: Writer, record: Record, begin: float, *, force: bool = False) -> Result:
    """Put every host back that an unfinished release has touched. Raises ReleaseError for those that stay.

    With `force` it comes to its end without what cannot be had: see `undo_hosts`. The Result's `reason` tells
    what was left.
    """
    model = writer.journal.model
    left = undo_hosts(fleet, writer, record, force=force)
    if left and not force:
        raise ReleaseError("\n  ".join([*left, _undo_again(model)]))
    notes = {  # of the last try, where there were several
        one.host: f"{one.host}: {one.data['text']}"
        for one in writer.journal.entries()
        if (one.release, one.event, one.step) == (record.id, "done", "undo") and one.data.get("text")
    }
    reason = "\n".join([*left, *notes.values()])
    writer.write("finished", outcome="undone", **({"reason": reason} if reason else {}))
    if writer.unwritten:
        reason = "\n".join(
            filter(None, [reason, f"{writer.unwritten}, and `torchmar rollback {model}` notes it"])
        )
    seconds = fleet.clock() - begin
    return Result(record.id, model, record.version, "undone", seconds, reason=reason, is_put_back=not left)


def _undo_again(model: str) -> str:
    return (
        f"When that is mended, `torchmar rollback {model}` goes on, after `torchmar reconcile {model}` where "
        f"the server was restarted; `torchmar rollback {model} --force` ends without what cannot be had"
    )


def _archive_of(fleet: Fleet, record: Record) -> Archive:
    """The archive that was being released: where it came from, or a copy in a store.

    Raises ReleaseError where it is gone, and where the journal tells too little to go on.
    """
    planned = record.planned
    if not {"archive", "sha256"} <= planned.keys() or any(
        host not in planned.get(key, {}) for key in ("steps", "workers") for host in record.hosts
    ):
        raise ReleaseError(
            f"the journal tells too little of the release of {record.version} ({record.id}) to go on: "
            "`torchmar rollback` undoes it"
        )
    places = [Path(str(record.planned["archive"]))]
    places += [host.store / record.file for host in fleet.hosts_of(record) if host.store]
    for path in places:
        with suppress(TorchmarError, OSError):
            archive = mar.verify(path)
            if archive.sha256 == record.planned["sha256"]:
                return archive
    raise ReleaseError(
        f"the archive of this release is gone or was changed ({', '.join(map(str, places))}): "
        f"`torchmar rollback` undoes the release"
    )


# -- carrying it out ----------------------------------------------------------------------------


def _carry_out(
    fleet: Fleet, writer: Writer, archive: Archive, options: Options, begin: float, plans: tuple[Plan, ...]
) -> Result:
    """All that is not done yet, in waves; the Result tells what came of it."""
    record = _record(writer)
    stop = threading.Event()
    works = {
        host.name: Work(
            host=host,
            archive=archive,
            file=record.file,
            workers=record.planned["workers"][host.name],
            default=record.served_before(host.name, archive.name).default,
            options=options,
            clock=until(stop, fleet.clock),
            sleep=until(stop, fleet.sleep),
            before=_traffic(record, host.name),
        )
        for host in fleet.hosts_of(record)
    }
    result = Result(record.id, archive.name, archive.version, "promoted", 0.0, plans)
    try:
        for wave in _waves(list(works.values()), 1):
            _take_steps(fleet, writer, record, wave, stop)
        result.note = _unasked(record, archive, options)
        result.reason = _finished(writer, result.note)
    except BaseException as error:
        result.error = error
        result.outcome = outcome_of(error)
        result.is_put_back, result.reason = _put_back(fleet, writer, error, result.outcome)
        if not isinstance(error, (TorchmarError, KeyboardInterrupt)):
            raise  # nobody expected it, so it is no result
    result.seconds = fleet.clock() - begin
    result.judgements = {name: work.judgements for name, work in works.items()}
    result.samples = {name: (work.default_samples, work.candidate_samples) for name, work in works.items()}
    result.recorded = {name: work.shadow_samples for name, work in works.items()}
    with suppress(TorchmarError):
        result.expected = {one.name: one.expected for one in next(iter(works.values())).requests}
        result.comparator = next(iter(works.values())).comparator
    return result


def _unasked(record: Record, archive: Archive, options: Options) -> str:
    """That nothing was asked of what was promoted; '' where something was."""
    by_others = any(step == "shadow" or step.startswith(CANARY) for step in record.steps)
    return "" if by_others or options.request or golden_names(archive) else NOTHING_ASKED


def _finished(writer: Writer, note: str) -> str:
    """Note that it is promoted; else why not: a journal that takes nothing does not undo what succeeded."""
    try:
        with noted_interrupts():
            writer.write("finished", outcome="promoted", **({"note": note} if note else {}))
    except ReleaseError as error:
        return f"it is promoted, and that could not be noted: {error}"
    return ""


def _traffic(record: Record, host: str) -> Traffic | None:
    """What the gate counted there before the switch, for a watch after `resume`."""
    counted = record.traffic.get(host)
    return None if counted is None else Traffic(**known_to(Traffic, counted))


def _take_steps(
    fleet: Fleet, writer: Writer, record: Record, wave: Sequence[Work], stop: threading.Event
) -> None:
    """Those of all hosts of a wave beside one another. Raises what stopped them: the first error, or Ctrl-C.

    It ends when none is under way any more, also where one failed or Ctrl-C came: what a step did
    later, nobody would undo.
    """
    errors: list[BaseException] = []
    with noted_interrupts() as interrupted, ThreadPoolExecutor(len(wave)) as pool:
        under_way = [pool.submit(_on_host, writer, record, work, stop, errors) for work in wave]
        while not stop.is_set() and wait(under_way, timeout=0.05).not_done:
            if interrupted.is_set():
                stop.set()
        if stop.is_set() and wait(under_way, timeout=0.05).not_done:
            # A new default that hangs keeps a step waiting, but not those whom it serves.
            with suppress(KeyboardInterrupt):  # once more: it is being ended already
                defaults_back(fleet, writer, _record(writer))
    if errors:
        raise errors[0]
    if interrupted.is_set():
        raise KeyboardInterrupt
    for one in under_way:
        one.result()


def _on_host(
    writer: Writer, record: Record, work: Work, stop: threading.Event, errors: list[BaseException]
) -> None:
    """The steps of one host. Those before the switch are taken again: much may have changed since.

    What stops the others, too, is among the `errors`; what fails because all are stopped is not.
    """
    host, step = work.host.name, "look"
    try:
        # Somebody may have set another default since, or the server forgotten this one.
        taken = (host, "default") in record.done
        switched = taken and writer.seen(work.host).default == work.version
        for step in record.planned["steps"][host]:
            if stop.is_set():
                return
            if (host, step) in record.done and switched:
                continue
            work.sent = 0
            with writer.act(host, step) as told:
                told["text"] = take(work, step)
                told["sent"] = work.sent
                if step == "gate" and work.before is not None:
                    told["traffic"] = asdict(work.before)  # for a watch after `resume`
            if step == "default":
                writer.served(work.host, writer.seen(work.host, _promoted(record, work)))
        writer.served(work.host, writer.seen(work.host, _promoted(record, work)))
    except Stopped:
        return
    except BaseException as error:
        if not stop.is_set():
            errors.append(error)
        stop.set()
        more = {"silent": True} if isinstance(error, RegistrationPending) else {}
        writer.write("failed", host, step, reason=_reason(error), sent=work.sent, **more)
        raise


def _promoted(record: Record, work: Work) -> ServedState:
    """What a host serves when the candidate is its default, as far as that is known without asking it."""
    before = record.served_before(work.host.name, work.model)
    others = tuple(one for one in before.versions if one.version != work.version)
    candidate = ServedVersion(work.version, work.file, work.workers, work.workers)
    return replace(before, default=work.version, versions=(*others, candidate))


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted (Ctrl-C)"
    return str(error) if isinstance(error, TorchmarError) else f"{type(error).__name__}: {error}"


def _put_back(fleet: Fleet, writer: Writer, error: BaseException, outcome: str) -> tuple[bool, str]:
    """Undo everything; whether all of it was undone, why it failed, and what could not be undone."""
    reason, model = _reason(error), writer.journal.model
    try:
        left = undo_hosts(fleet, writer, _record(writer))
    except KeyboardInterrupt:
        return False, f"{reason}, and so was putting it back: `torchmar rollback {model}` goes on"
    if left:
        return False, "\n".join([reason, *left, _undo_again(model)])
    writer.write("finished", outcome=outcome, reason=reason)
    if writer.unwritten:
        reason += f"\n{writer.unwritten}, and `torchmar rollback {model}` notes it"
    return True, reason


def _record(writer: Writer) -> Record:
    return next(one for one in history(writer.journal).records if one.id == writer.id)


def _waves(works: Sequence[Work], size: int) -> Iterator[Sequence[Work]]:
    for start in range(0, len(works), max(1, size)):
        yield works[start : start + max(1, size)]
