"""Plan what a release will do on one host, before it does anything: a pure function."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..mar import GOLDEN, GOLDEN_ANSWERS, PICKLED, Archive
from ..measure.price import shortfalls
from ..names import name_problem, shown, version_problem
from ..workers import is_standby
from ._options import Options
from ._state import ServedState, ServedVersion

InStore = Literal["absent", "same", "other", "unknown"]
CheckOutcome = Literal["ok", "warning", "refused"]

# Bytes of a worker without its weights: measured 80 MB for ONNX Runtime, 300 to 380 MB more with torch.
_BARE_WORKER = 100_000_000
_LONGEST_FILE = 210  # bytes: file systems take 255, and a file beside it has a longer name


@dataclass(frozen=True)
class Facts:
    """Holds what is known of a host before a release, in bytes; None is what cannot be seen from here.

    `desired` is the default version by the journal. `file_system` is where the store is. The
    server unpacks archives into the folder `temporary`, which has its own `free_temporary` and file system.
    `taken_disk`, `taken_temporary` and `taken_memory` are reserved for the servers of this machine before it.
    """

    host: str
    served: ServedState
    in_store: InStore = "absent"
    no_store: str = ""
    """Why nothing can be put into the store; '' where it can."""
    free_disk: int | None = None
    free_memory: int | None = None
    file_system: int | None = None
    temporary: str = ""
    free_temporary: int | None = None
    temporary_file_system: int | None = None
    taken_disk: int = 0
    taken_temporary: int = 0
    taken_memory: int = 0
    may_register: bool = True
    why_not: str = ""
    no_predictions: str = ""
    """Why the inference API does not answer; '' where it does."""
    no_canary: str = ""
    """Why the router cannot give the candidate a share; '' where it can, or no canary is wanted."""
    no_metrics: str = ""
    """Why the metrics cannot be had; '' where they can."""
    signature: str | None = None
    """None: nobody asked; '' where it is good; else what is wrong with it."""
    desired: str | None = None


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


def immutable_name(archive: Archive) -> str:
    """Return NAME-VERSION.mar, without .mar for a folder: the only file that a version is served from."""
    suffix = "" if archive.path.is_dir() else ".mar"
    return f"{archive.name}-{archive.version}{suffix}"


def plan(archive: Archive, facts: Facts, options: Options) -> Plan:
    """Return what a release of `archive` does where `facts` hold. It depends on nothing else."""
    served, file = facts.served, immutable_name(archive)
    here, default = served.get(archive.version), served.get(served.default)
    workers = _workers(archive, default, options)
    checks = tuple(_checks(archive, facts, options, workers))
    refused = any(check.outcome == "refused" for check in checks)
    done = default is not None and default is here and here.ready == here.workers == workers
    undecidable = (
        "" if refused or done or options.promote_inconclusive else _why_undecidable(archive, options)
    )
    steps = () if refused or done or undecidable else tuple(_steps(archive, facts, options, workers))
    if default is None:
        way_back = f"unregister {archive.name}: nothing was served before"
    else:
        way_back = f"one call: set-default {archive.name} {default.version}"
    return Plan(
        host=facts.host,
        model=archive.name,
        version=archive.version,
        file=file,
        sha256=archive.sha256,
        default=served.default,
        workers=workers,
        checks=checks,
        steps=steps,
        way_back=way_back,
        needs_disk=_needs_disk(archive, facts) if steps else 0,
        needs_temporary=_needs_temporary(archive, facts) if steps else 0,
        needs_memory=_needs_memory(archive, facts, workers) if steps else 0,
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


def _workers(archive: Archive, default: ServedVersion | None, options: Options) -> int:
    if options.workers is not None:
        return options.workers
    if default is not None and default.desired_workers:
        return default.desired_workers
    return max(1, _min_workers(archive) or 1)


def _min_workers(archive: Archive) -> int | None:
    """Return the archive's minWorkers; None where that is no number, which TorchServe ignores."""
    found = archive.config.get("minWorkers", 1)
    return found if isinstance(found, int) else None


def _count(workers: int) -> str:
    return "1 worker is" if workers == 1 else f"{workers} workers are"


# -- checks -------------------------------------------------------------------------------------


def _checks(archive: Archive, facts: Facts, options: Options, workers: int) -> Iterator[Check]:
    yield _digests(archive, options)
    if facts.signature is not None:
        yield _signature(facts, options)
    if archive.is_pickled:
        yield Check("pickle", "warning", f"the archive {PICKLED}")
    yield _rights(facts)
    yield _predictions(facts)
    if options.watch:
        yield _metrics(archive, facts, options)
    yield _store(archive, facts, options)
    yield from _names(archive, facts)
    yield from _served(facts.served, workers)
    if _min_workers(archive) is None:
        text = f"the archive's minWorkers is {archive.config['minWorkers']!r}, which is no number: as if 1"
        yield Check("workers", "warning", text)
    yield from _left(archive, facts, workers)
    yield _golden(archive, options)
    if archive.price is not None:
        yield _price(archive)
    yield _disk(archive, facts)
    yield _unpacking(archive, facts)
    yield _memory(archive, facts, options, workers)
    if options.canary:
        yield _canary(facts, options)


def _digests(archive: Archive, options: Options) -> Check:
    problems = archive.problems()
    if problems:
        return Check("digest", "refused", f"the archive is not what was built: {'; '.join(problems)}")
    if options.sha256 is not None and options.sha256.lower() != archive.sha256:
        found = f"its SHA-256 is {archive.sha256}, expected {options.sha256}"
        return Check("digest", "refused", f"this is another archive than the one meant: {found}")
    if archive.digests is None:
        text = "the archive holds no digests, so whether it is what was built is unknown; "
        return Check("digest", "warning", text + "build it with `torchmar archive`, or name its --sha256")
    return Check("digest", "ok", f"every file matches; sha256 {archive.sha256[:12]}…")


def _signature(facts: Facts, options: Options) -> Check:
    """Check the signature of the archive here; a store that cannot be seen may hold another one."""
    if facts.signature:
        return Check("signature", "refused", facts.signature)
    if facts.in_store == "unknown":
        text = f"of the archive here by the holder of {options.public_key}; not looked at on the server"
        return Check("signature", "warning", text)
    return Check("signature", "ok", f"by the holder of {options.public_key}")


def _rights(facts: Facts) -> Check:
    if not facts.may_register:
        return Check("rights", "refused", facts.why_not)
    return Check("rights", "ok", "the management API answers, and models may be registered")


def _predictions(facts: Facts) -> Check:
    if facts.no_predictions:
        return Check("inference", "refused", facts.no_predictions)
    return Check("inference", "ok", "the inference API answers")


def _metrics(archive: Archive, facts: Facts, options: Options) -> Check:
    """Check that the metrics can be had: the watch sees the real traffic by them alone."""
    if facts.no_metrics:
        asked = _asked(archive, options)
        seen = f"{'its' if options.request else 'golden'} requests and workers" if asked else "workers alone"
        text = f"{facts.no_metrics}: so the watch sees {seen}, and no real traffic"
        return Check("metrics", "warning", text)
    return Check("metrics", "ok", "the server counts its answers")


def _store(archive: Archive, facts: Facts, options: Options) -> Check:
    file = immutable_name(archive)
    asked = [name for name in ("public_key", "sha256") if getattr(options, name) is not None]
    if asked and (why := _uncompared(archive, facts)):
        options_given = " and ".join(f"--{name.replace('_', '-')}" for name in asked)
        text = f"{why}, so {options_given} would say nothing of what is served"
        return Check("store", "refused", text)
    if facts.in_store == "other":
        text = f"{file} is there with other contents: raise `version`; a name is never used twice"
        return Check("store", "refused", text)
    if facts.in_store == "unknown":
        text = (
            f"copy {file} there, or give --store: the model store cannot be seen from here, nothing is "
            "uploaded, and whether the server's file is this archive is not known"
        )
        return Check("store", "warning", text)
    if facts.in_store == "same":
        return Check("store", "ok", f"{file} is there already")
    if facts.no_store:
        return Check("store", "refused", f"{file} cannot be put there: {facts.no_store}")
    return Check("store", "ok", f"{file} will be put there")


def _uncompared(archive: Archive, facts: Facts) -> str:
    """Return why the server may serve other bytes than this archive's; '' where it does not."""
    file = immutable_name(archive)
    if facts.in_store == "unknown":
        return (
            "give --store (`store:` in a file of hosts), or release on the server itself: the model store "
            f"cannot be seen from here, and the server would serve its own {file}, which nobody has compared"
        )
    if facts.in_store == "absent" and facts.served.get(archive.version) is not None:
        return (
            f"`torchmar unregister {archive.name} {archive.version}` first: it is registered from a {file} "
            "that is no longer in the store, which nobody has compared"
        )
    return ""


def _names(archive: Archive, facts: Facts) -> Iterator[Check]:
    """Check that each version has a file of its own: of two in one, a restart finds only one."""
    served, file = facts.served, immutable_name(archive)
    if problem := name_problem(archive.name) or version_problem(archive.version):
        yield Check("names", "refused", f"{problem}. Choose another, and build the archive again")
        return
    if (length := len(os.fsencode(file))) > _LONGEST_FILE:
        text = f"name and version make a file name of {length} bytes, {_LONGEST_FILE} are possible"
        yield Check("names", "refused", f"{text}: choose shorter ones, and build the archive again")
        return
    if is_standby(archive.version):
        text = (
            f"{archive.version} is how a standby is called, which nobody releases: choose another `version`"
        )
        yield Check("names", "refused", text)
        return
    here = served.get(archive.version)
    if here is not None and here.archive != file:
        text = (
            f"{archive.version} is served already, from {here.archive!r}, not from {file}: raise `version` "
            "in model.yaml; an archive that exists gets another one by `torchmar adopt --version`"
        )
        yield Check("names", "refused", text)
        return
    for name in sorted({one.archive for one in served.versions}):
        versions = [one.version for one in served.versions if one.archive == name]
        if archive.version not in versions and name == file:
            versions.append(archive.version)
        if len(versions) > 1:
            text = (
                f"{' and '.join(versions)} are both served from the file {name!r}: it holds only one of "
                "them, so there is no way back, and a restart loses the other. Retire one, and release "
                "archives with a file name for each version"
            )
            yield Check("names", "refused", text)
            return
    yield Check("names", "ok", "each version has a file of its own")


def _served(served: ServedState, workers: int) -> Iterator[Check]:
    default = served.get(served.default)
    if workers < 1:
        yield Check("workers", "refused", "0 workers could answer nothing")
    if default is None and served.default is not None:
        text = (
            f"the default version {shown(served.default)!r} has a name that cannot be said to TorchServe, so "
            "there would be no way back: have another version of it made the default first"
        )
        yield Check("default", "refused", text)
    elif default is None:
        yield Check("default", "ok", f"{served.model} is not served yet: this version becomes its default")
    elif default.ready == 0:
        text = (
            f"the default version {default.version} has no READY worker ({default.workers} listed): callers "
            f"are already failing, and there would be no way back. `torchmar repair {served.model}` or "
            f"`torchmar scale {served.model} 1` first"
        )
        yield Check("default", "refused", text)
    elif default.ready < default.workers:
        text = f"{default.version} has {default.ready} READY of {default.workers} listed workers; "
        yield Check("default", "warning", text + f"`torchmar repair {served.model}` replaces the others")
    else:
        yield Check("default", "ok", f"{default.version}, {default.ready} READY")


def _left(archive: Archive, facts: Facts, workers: int) -> Iterator[Check]:
    """Check for what others have left: by a restart, an interruption, or too many workers."""
    name, served = archive.name, facts.served
    here = served.get(archive.version)
    if facts.desired is not None and served.get(facts.desired) is None:
        text = (
            f"the journal says that {facts.desired} is the default, and it is not served: was the server "
            f"restarted? `torchmar reconcile {name}` first, or the way back would be forgotten"
        )
        yield Check("journal", "refused", text)
    standbys = [one.version for one in served.versions if is_standby(one.version)]
    if standbys:
        text = f"{standbys[0]} is left from a scaling or repair that was interrupted: "
        yield Check("standby", "refused", text + f"`torchmar scale {name} {workers}` finishes it")
    if here is not None and here.workers > workers:
        text = (
            f"{here.version} has {here.workers} already, {workers} are wanted, and a release ends none: "
            f"`torchmar scale {name} {workers} --version {here.version}` first, or --workers {here.workers}"
        )
        yield Check("workers", "refused", text)


def golden_names(archive: Archive) -> list[str]:
    """Return the files of the golden requests that an archive carries."""
    names = [file.name for file in archive.files if file.name.startswith(f"{GOLDEN}/")]
    return [name for name in names if name != GOLDEN_ANSWERS]


def _asked(archive: Archive, options: Options) -> int:
    """Return how many different requests will be sent."""
    return len(golden_names(archive)) + len(options.request)


def requests_in_words(golden: int, given: int) -> str:
    """Return what is sent, as "2 golden requests and 1 that was given"."""
    words = [f"{golden} golden request{'' if golden == 1 else 's'}"] if golden or not given else []
    if given:
        unit = "" if words else f" request{'' if given == 1 else 's'}"
        words.append(f"{given}{unit} that {'was' if given == 1 else 'were'} given")
    return " and ".join(words)


def _why_undecidable(archive: Archive, options: Options) -> str:
    """Return why the gate cannot decide, whatever the answers are; '' where it may."""
    if options.request:
        return ""
    if not golden_names(archive):
        return "the archive carries no golden requests, so nothing can be asked of it"
    if not any(file.name == GOLDEN_ANSWERS for file in archive.files):
        return "nothing says what the golden requests must be answered with"
    return ""


def _price(archive: Archive) -> Check:
    """Check that compressing the model costs no more than its model.yaml accepts."""
    assert archive.price is not None
    wrong = shortfalls(archive.price, archive.accepts)
    if wrong:
        what = f"its compressed model costs more than its model.yaml accepts: {'; '.join(wrong.values())}"
        return Check("price", "refused", f"build it again, with another `accept` or `compress`: {what}")
    return Check("price", "ok", "compressing the model costs no more than its model.yaml accepts")


def _golden(archive: Archive, options: Options) -> Check:
    count = len(golden_names(archive))
    why = _why_undecidable(archive, options)
    if not why:
        text = requests_in_words(count, len(options.request))
        if any(file.name == GOLDEN_ANSWERS for file in archive.files):
            return Check("golden", "ok", text)
        text += (
            ": nothing says what they must be answered with, so whether the answers are right is not known"
        )
        return Check("golden", "warning", text)
    text = f"{why}: {HAVE_GOLDEN}"
    if options.promote_inconclusive:
        text += "; promoted all the same, as --promote-inconclusive says"
        text += "" if count else ", also if it would answer every request with an error"
    return Check("golden", "warning", text)


HAVE_GOLDEN = "name some by `golden:` in model.yaml, record some (`torchmar adopt`), or give --request"


def _needs_disk(archive: Archive, facts: Facts) -> int:
    """Return the bytes of a copy in the store."""
    return 0 if facts.in_store == "same" else archive.size


def _needs_temporary(archive: Archive, facts: Facts) -> int:
    """Return the bytes that TorchServe unpacks at registration. A folder is served where it is."""
    if archive.path.is_dir() or facts.served.get(archive.version) is not None:
        return 0
    return max(archive.size, sum(file.size for file in archive.files))


def _disk(archive: Archive, facts: Facts) -> Check:
    if facts.free_disk is None:
        return Check("disk", "ok", "not looked at: the store is elsewhere")
    need, free = _needs_disk(archive, facts), facts.free_disk - facts.taken_disk
    text = f"{_mb(need)} are needed in the store, {_free(free, facts.taken_disk)}"
    return Check("disk", "refused" if need > free else "ok", text)


def _unpacking(archive: Archive, facts: Facts) -> Check:
    need = _needs_temporary(archive, facts)
    if not need:
        return Check("unpacking", "ok", "nothing is unpacked")
    if facts.free_temporary is None:
        return Check("unpacking", "ok", f"{_mb(need)}; where, and what is free there, is not known")
    where = f"in {facts.temporary}, where the server unpacks archives"
    if facts.temporary_file_system == facts.file_system and (copy := _needs_disk(archive, facts)):
        need += copy
        where += ", and in the store, which is on the same disk"
    free = facts.free_temporary - facts.taken_temporary
    text = f"{_mb(need)} are needed {where}; {_free(free, facts.taken_temporary)}"
    if need <= free:
        return Check("unpacking", "ok", text)
    return Check("unpacking", "refused", f"{text}. Make room there, or start the server with another TMPDIR")


def _mb(count: int) -> str:
    return f"{count / 1e6:,.{1 if 0 < count < 10**6 else 0}f} MB"


def _free(free: int, taken: int) -> str:
    left = " when the servers before it have theirs" if taken else ""
    return f"{_mb(max(0, free))} are free{left}"


def _needs_memory(archive: Archive, facts: Facts, workers: int) -> int:
    """Return the bytes of the candidate's workers: both versions are in memory at once."""
    each = _measured(facts) or archive.size + _BARE_WORKER
    return _more_workers(archive, facts, workers) * each


def _more_workers(archive: Archive, facts: Facts, workers: int) -> int:
    here = facts.served.get(archive.version)
    return max(0, workers - (here.workers if here is not None else 0))


def _measured(facts: Facts) -> int:
    """Return the bytes that a worker of the default version holds, 0 where that is unknown."""
    default = facts.served.get(facts.served.default)
    return default.memory if default is not None else 0


def _memory(archive: Archive, facts: Facts, options: Options, workers: int) -> Check:
    need, measured = _needs_memory(archive, facts, workers), _measured(facts)
    if facts.free_memory is None:
        return Check("memory", "ok", f"about {_mb(need)} more; what is free there is not known here")
    more, free = _more_workers(archive, facts, workers), facts.free_memory - facts.taken_memory
    basis = "as the default version's workers hold" if measured else "by the size of the archive"
    workers_more = f"{more} more worker{'' if more == 1 else 's'}"
    text = f"about {_mb(need)} for {workers_more}, {basis}; {_free(free, facts.taken_memory)}"
    if need <= free:
        return Check("memory", "ok", text)
    # An estimate from the size of a file refuses nobody.
    refused = bool(measured) and not options.ignore_memory
    text += ": both versions run at once"
    if refused:
        return Check("memory", "refused", f"{text}. Fewer --workers, or --ignore-memory")
    return Check("memory", "warning", text)


def _canary(facts: Facts, options: Options) -> Check:
    if why := _no_canary(options) or facts.no_canary:
        return Check("canary", "refused", why)
    if options.nginx_reload is None:
        return Check("canary", "warning", f"without --nginx-reload nobody has nginx read {options.nginx}")
    return Check("canary", "ok", f"{options.nginx}, read by `{options.nginx_reload}`")


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


def _steps(archive: Archive, facts: Facts, options: Options, workers: int) -> Iterator[Planned]:
    name, version, file = archive.name, archive.version, immutable_name(archive)
    here, default = facts.served.get(version), facts.served.get(facts.served.default)
    if facts.in_store == "absent":
        yield Planned("copy", f"copy {archive.path.name} into the model store as {file}, and digest it again")
    if here is None:
        yield Planned("register", f"register {name} {version}, asynchronously")
    load = "; where they die without a word, it is loaded here to find out why" if options.load else ""
    yield Planned("ready", f"wait until {_count(workers)} READY, at most {options.ready_timeout:g} s{load}")
    if _asked(archive, options):
        asked = requests_in_words(len(golden_names(archive)), len(options.request))
        yield Planned("warm", f"send two batches to every worker, of {asked}")
    is_new = default is None or default is not here
    against = f" and of {default.version}" if is_new and default is not None else ""
    yield Planned("gate", _gate(archive, options, f"{version}{against}"))
    if options.shadow and is_new and default is not None:
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


def _gate(archive: Archive, options: Options, versions: str) -> str:
    """Return what the gate will do."""
    why = _why_undecidable(archive, options)
    if not _asked(archive, options):
        text = f"nothing is asked of {versions}: {why.partition(',')[0]}"
    else:
        asked = "the golden requests" if golden_names(archive) else "the requests that were given"
        asked += " and those that were given" if golden_names(archive) and options.request else ""
        text = f"replay {asked}: answers, errors and latency of {versions}, judged"
        text += f"; {why}" if why else ""
    return f"{text}; it goes on all the same, as --promote-inconclusive says" if why else text
