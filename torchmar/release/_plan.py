"""Plan what a release will do on one host, before it does anything: a pure function of the facts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..errors import ReleaseInconclusive, ReleaseRefused
from ..lineage import Parent
from ..mar import GOLDEN, GOLDEN_ANSWERS, PICKLED, Accepted, Archive
from ..measure.price import metric_in_words, shortfalls
from ..names import name_problem, shown, version_problem
from ..workers import is_standby
from ._facts import Facts, immutable_name
from ._fleet import ServedVersion
from ._gate import requests_in_words
from ._options import Options

CheckOutcome = Literal["ok", "warning", "refused"]
Found = tuple[CheckOutcome, str]

HAVE_GOLDEN = "name some by `golden:` in model.yaml, record some (`torchmar adopt`), or give --request"

# Bytes of a worker without its weights: measured 80 MB for ONNX Runtime, 300 to 380 MB more with torch.
_BARE_WORKER = 100_000_000
_LONGEST_FILE = 210  # bytes: file systems take 255, and a file beside it has a longer name


@dataclass(frozen=True)
class Check:
    """Holds what one check has found."""

    name: str
    outcome: CheckOutcome
    text: str


@dataclass(frozen=True)
class Planned:
    """Describes one step."""

    name: str
    text: str


@dataclass(frozen=True)
class Plan:
    """Describes what will be done on one host. Without steps nothing is done."""

    host: str
    model: str
    version: str
    file: str
    sha256: str
    default: str | None
    workers: int
    checks: tuple[Check, ...]
    steps: tuple[Planned, ...]
    way_back: str
    needs_disk: int = 0
    """Bytes, about, in the store."""
    needs_temporary: int = 0
    """And where the server unpacks."""
    needs_memory: int = 0
    undecidable: str = ""
    """Why nothing is done, as the gate could not tell whether it is good; '' where it may."""

    @property
    def is_done(self) -> bool:
        """Whether the host serves it already as it should."""
        return not (self.steps or self.refusals or self.undecidable)

    @property
    def refusals(self) -> tuple[str, ...]:
        """The reasons why it must not be done."""
        return tuple(f"{check.name}: {check.text}" for check in self.checks if check.outcome == "refused")


@dataclass(frozen=True)
class _Case:
    """Holds what a plan depends on: `here` is the candidate where it is registered already.

    Needs are in bytes: of a copy in the store, where the server unpacks, and of `more_workers` in memory,
    where both versions are at once. `measured` is what a worker of the default version holds, 0 where that
    is unknown.
    """

    archive: Archive
    facts: Facts
    options: Options
    file: str
    here: ServedVersion | None
    default: ServedVersion | None
    workers: int
    more_workers: int
    golden: tuple[str, ...]
    measured: int
    needs_disk: int
    needs_temporary: int
    needs_memory: int

    @property
    def asked(self) -> int:
        """How many different requests will be sent."""
        return len(self.golden) + len(self.options.request)


def _case_of(archive: Archive, facts: Facts, options: Options) -> _Case:
    here, default = facts.served.get(archive.version), facts.served.get(facts.served.default)
    workers = options.workers
    if workers is None:
        workers = (default.desired_workers if default else 0) or max(1, _min_workers(archive) or 1)
    more_workers = max(0, workers - (0 if here is None else here.workers))
    measured = 0 if default is None else default.memory
    # TorchServe unpacks at registration; a folder is served where it is.
    is_unpacked = here is None and not archive.path.is_dir()
    return _Case(
        archive=archive,
        facts=facts,
        options=options,
        file=immutable_name(archive),
        here=here,
        default=default,
        workers=workers,
        more_workers=more_workers,
        golden=golden_names(archive),
        measured=measured,
        needs_disk=0 if facts.in_store == "same" else archive.size,
        needs_temporary=max(archive.size, sum(one.size for one in archive.files)) if is_unpacked else 0,
        needs_memory=more_workers * (measured or archive.size + _BARE_WORKER),
    )


def plan(archive: Archive, facts: Facts, options: Options) -> Plan:
    """Return what a release of `archive` does where `facts` hold. It depends on nothing else."""
    case = _case_of(archive, facts, options)
    here, default = case.here, case.default
    checks = tuple(_checks(case))
    refused = any(check.outcome == "refused" for check in checks)
    done = default is not None and default is here and here.ready == here.workers == case.workers
    undecidable = "" if refused or done or options.promote_inconclusive else _why_undecidable(case)
    steps = () if refused or done or undecidable else tuple(_steps(case))
    way_back = f"unregister {archive.name}: nothing was served before"
    if default is not None:
        way_back = f"one call: set-default {archive.name} {default.version}"
    return Plan(
        host=facts.host,
        model=archive.name,
        version=archive.version,
        file=case.file,
        sha256=archive.sha256,
        default=facts.served.default,
        workers=case.workers,
        checks=checks,
        steps=steps,
        way_back=way_back,
        needs_disk=case.needs_disk if steps else 0,
        needs_temporary=case.needs_temporary if steps else 0,
        needs_memory=case.needs_memory if steps else 0,
        undecidable=undecidable,
    )


def plan_all(archive: Archive, hosts: Sequence[Facts], options: Options) -> tuple[Plan, ...]:
    """Return a plan for each host. Hosts on one machine share its memory and its disk."""
    plans: list[Plan] = []
    memory, disk = 0, Counter[int | None]()
    for facts in hosts:
        store, temporary = facts.file_system, facts.temporary_file_system
        shared = replace(facts, taken_disk=disk[store], taken_temporary=disk[temporary], taken_memory=memory)
        plans.append(plan(archive, shared, options))
        if facts.free_memory is not None:
            memory += plans[-1].needs_memory
        disk[store] += plans[-1].needs_disk
        disk[temporary] += plans[-1].needs_temporary
        disk[None] = 0  # file systems that cannot be seen are not the same one
    return tuple(plans)


def why_not(plans: Sequence[Plan]) -> ReleaseRefused | ReleaseInconclusive | None:
    """Return why nothing is released by these plans: what they refuse, or that the gate could not decide."""
    refusals = [f"{one.host}: {text}" for one in plans for text in one.refusals]
    if refusals:
        lines = "\n  ".join(refusals)
        return ReleaseRefused(f"{plans[0].model} {plans[0].version} is not released:\n  {lines}")
    for one in plans:
        if one.undecidable:
            return ReleaseInconclusive(
                f"{one.model} {one.version}: nothing was asked of it: {one.undecidable}. To have it judged, "
                f"{HAVE_GOLDEN}\n  It is promoted all the same with --promote-inconclusive"
            )
    return None


def golden_names(archive: Archive) -> tuple[str, ...]:
    """Return the files of the golden requests that an archive carries."""
    names = (file.name for file in archive.files)
    return tuple(name for name in names if name.startswith(f"{GOLDEN}/") and name != GOLDEN_ANSWERS)


def _has_answers(archive: Archive) -> bool:
    return any(file.name == GOLDEN_ANSWERS for file in archive.files)


def _min_workers(archive: Archive) -> int | None:
    """Return the archive's minWorkers; None where that is no number, which TorchServe ignores."""
    found = archive.config.get("minWorkers", 1)
    return found if isinstance(found, int) else None


def _why_undecidable(case: _Case) -> str:
    """Return why the gate cannot decide, whatever the answers are; '' where it may."""
    if case.options.request:
        return ""
    if not case.golden:
        return "the archive carries no golden requests, so nothing can be asked of it"
    return "" if _has_answers(case.archive) else "nothing says what the golden requests must be answered with"


def _mb(count: int) -> str:
    return f"{count / 1e6:,.{1 if 0 < count < 10**6 else 0}f} MB"


def _free(free: int, taken: int) -> str:
    left = " when the servers before it have theirs" if taken else ""
    return f"{_mb(max(0, free))} are free{left}"


# -- checks -------------------------------------------------------------------------------------


def _checks(case: _Case) -> Iterator[Check]:
    archive, facts = case.archive, case.facts
    yield Check("digest", *_digests(case))
    if facts.signature is not None:
        yield Check("signature", *_signature(case, facts.signature))
    if archive.is_pickled:
        yield Check("pickle", "warning", f"the archive {PICKLED}")
    may_register = "the management API answers, and models may be registered"
    yield Check("rights", *_unless(facts.no_rights, may_register))
    yield Check("inference", *_unless(facts.no_predictions, "the inference API answers"))
    if case.options.watch:
        yield Check("metrics", *_metrics(case))
    yield Check("store", *_store(case))
    yield Check("names", *_unless(_why_not_named(case), "each version has a file of its own"))
    if case.workers < 1:
        yield Check("workers", "refused", "0 workers could answer nothing")
    yield Check("default", *_default(case))
    if archive.lineage is not None and archive.lineage.parent is not None:
        yield Check("parent", *_parent(case, archive.lineage.parent))
    if _min_workers(archive) is None:
        found = archive.config["minWorkers"]
        yield Check(
            "workers", "warning", f"the archive's minWorkers is {found!r}, which is no number: as if 1"
        )
    yield from _left(case)
    yield Check("golden", *_golden(case))
    if archive.price is not None:
        yield Check("price", *_price(archive.price, archive.accepts))
    yield Check("disk", *_disk(case))
    yield Check("unpacking", *_unpacking(case))
    yield Check("memory", *_memory(case))
    if case.options.canary:
        yield Check("canary", *_canary(case))


def _unless(refused: str, ok: str) -> Found:
    """Return why a thing is refused, or else that it is in order."""
    return ("refused", refused) if refused else ("ok", ok)


def _digests(case: _Case) -> Found:
    archive, expected = case.archive, case.options.sha256
    if problems := archive.problems():
        return "refused", f"the archive is not what was built: {'; '.join(problems)}"
    if expected is not None and expected.lower() != archive.sha256:
        found = f"its SHA-256 is {archive.sha256}, expected {expected}"
        return "refused", f"this is another archive than the one meant: {found}"
    if archive.digests is None:
        text = "the archive holds no digests, so whether it is what was built is unknown; "
        return "warning", text + "build it with `torchmar archive`, or name its --sha256"
    return "ok", f"every file matches; sha256 {archive.sha256[:12]}…"


def _signature(case: _Case, wrong: str) -> Found:
    """Check the signature of the archive here; a store that cannot be seen may hold another one."""
    if wrong:
        return "refused", wrong
    holder = f"by the holder of {case.options.public_key}"
    if case.facts.in_store == "unknown":
        return "warning", f"of the archive here {holder}; not looked at on the server"
    return "ok", holder


def _metrics(case: _Case) -> Found:
    """Check that the metrics can be had: the watch sees the real traffic by them alone."""
    if not case.facts.no_metrics:
        return "ok", "the server counts its answers"
    requests = f"{'its' if case.options.request else 'golden'} requests and workers"
    seen = requests if case.asked else "workers alone"
    return "warning", f"{case.facts.no_metrics}: so the watch sees {seen}, and no real traffic"


def _store(case: _Case) -> Found:
    facts, file = case.facts, case.file
    asked = {"--public-key": case.options.public_key, "--sha256": case.options.sha256}
    given = " and ".join(option for option, value in asked.items() if value is not None)
    if given and (why := _uncompared(case)):
        return "refused", f"{why}, so {given} would say nothing of what is served"
    if facts.in_store == "other":
        return "refused", f"{file} is there with other contents: raise `version`; a name is never used twice"
    if facts.in_store == "unknown":
        return "warning", (
            f"copy {file} there, or give --store: the model store cannot be seen from here, nothing is "
            "uploaded, and whether the server's file is this archive is not known"
        )
    if facts.in_store == "same":
        return "ok", f"{file} is there already"
    if facts.no_store:
        return "refused", f"{file} cannot be put there: {facts.no_store}"
    return "ok", f"{file} will be put there"


def _uncompared(case: _Case) -> str:
    """Return why the server may serve other bytes than this archive's; '' where it does not."""
    archive, file = case.archive, case.file
    if case.facts.in_store == "unknown":
        return (
            "give --store (`store:` in a file of hosts), or release on the server itself: the model store "
            f"cannot be seen from here, and the server would serve its own {file}, which nobody has compared"
        )
    if case.facts.in_store == "absent" and case.here is not None:
        return (
            f"`torchmar unregister {archive.name} {archive.version}` first: it is registered from a {file} "
            "that is no longer in the store, which nobody has compared"
        )
    return ""


def _why_not_named(case: _Case) -> str:
    """Return why a version has no file of its own; '' where each has. Of two in one a restart finds one."""
    archive, file, registered = case.archive, case.file, case.facts.served.versions
    if problem := name_problem(archive.name) or version_problem(archive.version):
        return f"{problem}. Choose another, and build the archive again"
    if (length := len(os.fsencode(file))) > _LONGEST_FILE:
        text = f"name and version make a file name of {length} bytes, {_LONGEST_FILE} are possible"
        return f"{text}: choose shorter ones, and build the archive again"
    if is_standby(archive.version):
        text = f"{archive.version} is how a standby is called, which nobody releases"
        return f"{text}: choose another `version`"
    if case.here is not None and case.here.archive != file:
        return (
            f"{archive.version} is served already, from {case.here.archive!r}, not from {file}: raise "
            "`version` in model.yaml; an archive that exists gets another one by `torchmar adopt --version`"
        )
    for name in sorted({one.archive for one in registered}):
        versions = [one.version for one in registered if one.archive == name]
        if archive.version not in versions and name == file:
            versions.append(archive.version)
        if len(versions) > 1:
            return (
                f"{' and '.join(versions)} are both served from the file {name!r}: it holds only one of "
                "them, so there is no way back, and a restart loses the other. Retire one, and release "
                "archives with a file name for each version"
            )
    return ""


def _default(case: _Case) -> Found:
    served, default = case.facts.served, case.default
    if default is None and served.default is not None:
        return "refused", (
            f"the default version {shown(served.default)!r} has a name that cannot be said to TorchServe, so "
            "there would be no way back: have another version of it made the default first"
        )
    if default is None:
        return "ok", f"{served.model} is not served yet: this version becomes its default"
    if default.ready == 0:
        return "refused", (
            f"the default version {default.version} has no READY worker ({default.workers} listed): callers "
            f"are already failing, and there would be no way back. `torchmar repair {served.model}` or "
            f"`torchmar scale {served.model} 1` first"
        )
    if default.ready < default.workers:
        text = f"{default.version} has {default.ready} READY of {default.workers} listed workers; "
        return "warning", f"{text}`torchmar repair {served.model}` replaces the others"
    return "ok", f"{default.version}, {default.ready} READY"


def _parent(case: _Case, parent: Parent) -> Found:
    """Check that the archive follows the version that is served, where it follows one of this model."""
    built_from = f"it was built from {parent}"
    served, name = case.facts.served.default, case.archive.name
    is_of_another = parent.name != name or served in {None, case.archive.version}
    if is_of_another or served == parent.version:
        return "ok", built_from
    return "warning", f"{built_from}, and {shown(str(served))} is served, which it may know nothing of"


def _left(case: _Case) -> Iterator[Check]:
    """Check for what others have left: by a restart, an interruption, or too many workers."""
    here, workers, name = case.here, case.workers, case.archive.name
    served, desired = case.facts.served, case.facts.desired
    if desired is not None and served.get(desired) is None:
        text = (
            f"the journal says that {desired} is the default, and it is not served: was the server "
            f"restarted? `torchmar reconcile {name}` first, or the way back would be forgotten"
        )
        yield Check("journal", "refused", text)
    standbys = [one.version for one in served.versions if is_standby(one.version)]
    if standbys:
        text = f"{standbys[0]} is left from a scaling or repair that was interrupted: "
        yield Check("standby", "refused", f"{text}`torchmar scale {name} {workers}` finishes it")
    if here is not None and here.workers > workers:
        text = (
            f"{here.version} has {here.workers} already, {workers} are wanted, and a release ends none: "
            f"`torchmar scale {name} {workers} --version {here.version}` first, or --workers {here.workers}"
        )
        yield Check("workers", "refused", text)


def _golden(case: _Case) -> Found:
    if why := _why_undecidable(case):
        text = f"{why}: {HAVE_GOLDEN}"
        if case.options.promote_inconclusive:
            text += "; promoted all the same, as --promote-inconclusive says"
            text += "" if case.golden else ", also if it would answer every request with an error"
        return "warning", text
    text = requests_in_words(len(case.golden), len(case.options.request))
    if _has_answers(case.archive):
        return "ok", text
    unknown = "nothing says what they must be answered with, so whether the answers are right is not known"
    return "warning", f"{text}: {unknown}"


def _price(price: Mapping[str, Any], accepts: Accepted) -> Found:
    """Check that compressing the model costs no more than its model.yaml accepts."""
    if wrong := shortfalls(price, accepts):
        what = f"its compressed model costs more than its model.yaml accepts: {'; '.join(wrong.values())}"
        return "refused", f"build it again, with another `accept` or `compress`: {what}"
    text, metric = "compressing the model costs no more than its model.yaml accepts", metric_in_words(price)
    return "ok", f"{text}: {metric}" if metric else text


def _disk(case: _Case) -> Found:
    if case.facts.free_disk is None:
        return "ok", "not looked at: the store is elsewhere"
    need, taken = case.needs_disk, case.facts.taken_disk
    free = case.facts.free_disk - taken
    return "refused" if need > free else "ok", f"{_mb(need)} are needed in the store, {_free(free, taken)}"


def _unpacking(case: _Case) -> Found:
    facts, need = case.facts, case.needs_temporary
    if not need:
        return "ok", "nothing is unpacked"
    if facts.free_temporary is None:
        return "ok", f"{_mb(need)}; where, and what is free there, is not known"
    where = f"in {facts.temporary}, where the server unpacks archives"
    if facts.temporary_file_system == facts.file_system and case.needs_disk:
        need += case.needs_disk
        where += ", and in the store, which is on the same disk"
    free = facts.free_temporary - facts.taken_temporary
    text = f"{_mb(need)} are needed {where}; {_free(free, facts.taken_temporary)}"
    if need <= free:
        return "ok", text
    return "refused", f"{text}. Make room there, or start the server with another TMPDIR"


def _memory(case: _Case) -> Found:
    need, more, taken = case.needs_memory, case.more_workers, case.facts.taken_memory
    if case.facts.free_memory is None:
        return "ok", f"about {_mb(need)} more; what is free there is not known here"
    free = case.facts.free_memory - taken
    basis = "as the default version's workers hold" if case.measured else "by the size of the archive"
    workers = f"{more} more worker{'' if more == 1 else 's'}"
    text = f"about {_mb(need)} for {workers}, {basis}; {_free(free, taken)}"
    if need <= free:
        return "ok", text
    # An estimate from the size of a file refuses nobody.
    if case.measured and not case.options.ignore_memory:
        return "refused", f"{text}: both versions run at once. Fewer --workers, or --ignore-memory"
    return "warning", f"{text}: both versions run at once"


def _canary(case: _Case) -> Found:
    options = case.options
    if why := _no_canary(options) or case.facts.no_canary:
        return "refused", why
    if options.nginx_reload is None:
        return "warning", f"without --nginx-reload nobody has nginx read {options.nginx}"
    return "ok", f"{options.nginx}, read by `{options.nginx_reload}`"


def _no_canary(options: Options) -> str:
    """Return what is wrong with the options of a canary; '' where nothing is."""
    percents = options.canary
    if options.nginx is None or options.access_log is None:
        return "needs --nginx FILE, which it writes, and --access-log FILE, which nginx writes"
    if any(not 0 < percent <= 100 for percent in percents) or sorted(percents) != [*percents]:
        return "expected percents above 0 that grow, as 1,5,25,100"
    if percents[0] == 100:
        return "at 100 % nobody asks the default: nothing to judge by; begin with less, as 5,100"
    return ""


# -- steps --------------------------------------------------------------------------------------


def _steps(case: _Case) -> Iterator[Planned]:
    archive, options, default = case.archive, case.options, case.default
    name, version, file = archive.name, archive.version, case.file
    if case.facts.in_store == "absent":
        yield Planned("copy", f"copy {archive.path.name} into the model store as {file}, and digest it again")
    if case.here is None:
        yield Planned("register", f"register {name} {version}, asynchronously")
    ready = "1 worker is" if case.workers == 1 else f"{case.workers} workers are"
    load = "; where they die without a word, it is loaded here to find out why" if options.load else ""
    yield Planned("ready", f"wait until {ready} READY, at most {options.ready_timeout:g} s{load}")
    if case.asked:
        asked = requests_in_words(len(case.golden), len(options.request))
        yield Planned("warm", f"send two batches to every worker, of {asked}")
    is_new = default is None or default is not case.here
    against = f" and of {default.version}" if is_new and default is not None else ""
    yield Planned("gate", _gate(case, f"{version}{against}"))
    if is_new and default is not None and options.shadow:
        yield Planned("shadow", f"replay recorded requests to {version} and {default.version}, and judge")
    if is_new:
        for percent in options.canary if default is not None else ():
            text = f"{percent:g} % of the traffic to {version}, at least {options.canary_seconds:g} s, judged"
            yield Planned(f"canary {percent:g}", text)
        yield Planned("default", f"make {version} the default")
        if options.canary and default is not None:
            yield Planned("nginx", "all of the traffic to the default version")
    if options.watch:
        yield Planned("watch", f"watch it for {options.watch:g} s; back at once if it fails")


def _gate(case: _Case, versions: str) -> str:
    """Return what the gate will do."""
    why = _why_undecidable(case)
    if not case.asked:
        text = f"nothing is asked of {versions}: {why.partition(',')[0]}"
    else:
        asked = "the golden requests" if case.golden else "the requests that were given"
        asked += " and those that were given" if case.golden and case.options.request else ""
        text = f"replay {asked}: answers, errors and latency of {versions}, judged"
        text += f"; {why}" if why else ""
    return f"{text}; it goes on all the same, as --promote-inconclusive says" if why else text
