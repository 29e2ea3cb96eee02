"""A canary by nginx: a share of the real traffic for the candidate, judged by nginx's log, step by step."""

from __future__ import annotations

import math
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import ModelNotFound, ReleaseError
from ..files import decode_text
from ..measure.latency import MIN_SAMPLES, judge_latency, judge_rate
from ..measure.samples import Finding, Judgement, Outcome, Sample
from ..names import shown
from ._fleet import Fleet
from ._history import Record
from ._host import Host, require_ours, upstreams
from ._options import Options
from ._work import Work
from .routers.access_log import Logged, Position, end_of, read
from .routers.nginx import Canary, configuration, knows, servers_of, write

CANARY = "canary "  # the name of a step: canary 5
_PAUSE = 0.5  # seconds between two looks into the log
_MORE_TIME = 4  # times as long as a step should last, where it cannot be judged yet
_RELOAD_TIMEOUT = 30.0  # seconds


def options_of(fleet: Fleet, record: Record) -> Options:
    """The options of a release, as journaled; the command is that of whoever goes on with it."""
    return replace(Options.from_json(record.planned.get("options", {})), nginx_reload=fleet.nginx_reload)


def tells_nginx(step: str) -> bool:
    """Whether this is a step of a canary."""
    return step.startswith((CANARY, "nginx"))


def no_command(fleet: Fleet, record: Record) -> str:
    """Why nginx cannot be told, where the release that goes on had a command for it; '' where it can be."""
    command = record.planned.get("options", {}).get("nginx_reload")
    if not command or fleet.nginx_reload is not None:
        return ""
    return (
        f"give --nginx-reload again: the journal says `{shown(str(command), 200)}`, and a command is not "
        "taken from a journal, which others may be able to write"
    )


def canary(work: Work, percent: float) -> str:
    """Give the candidate this share, wait, and judge it by what nginx says of both versions."""
    options = work.options
    if options.nginx is None or options.access_log is None:
        raise ReleaseError("a canary needs --nginx FILE and --access-log FILE")
    log = Path(options.access_log)
    set_share(options, _described(work, percent, work.default))
    position = end_of(log)
    begin = work.clock()
    while True:
        work.sleep(_PAUSE)
        seconds = work.clock() - begin
        _require_workers(work)
        if seconds < options.canary_seconds:
            continue
        judgement = _judged(work, log, position)
        if judgement.outcome is not Outcome.INCONCLUSIVE or seconds > _MORE_TIME * options.canary_seconds:
            break
    more = f"--canary-seconds {_MORE_TIME * options.canary_seconds:.0f}"
    decided = work.decide(f"canary {percent:g}", judgement, more)
    return f"{percent:g} % of the traffic for {seconds:.0f} s: {decided}"


def no_canary(work: Work) -> str:
    """Everything to the default version again, which is the candidate by now."""
    set_share(work.options, _described(work, 0, None))
    return "everything goes to the default version"


def set_share(options: Options, described: Canary, *, stays: bool = False) -> str:
    """Write nginx's configuration and have it read; what it said before is put back where that fails.

    Where it `stays` all the same, why it was not read, and '' where it was. Raises ReleaseError.
    """
    assert options.nginx is not None
    path = Path(options.nginx)
    previous = _in_force(path)
    require_ours(path, previous)
    write(path, configuration(described))
    problem = _reload(options.nginx_reload)
    if problem and not stays:
        if previous is not None:
            write(path, previous)
        else:
            path.unlink(missing_ok=True)
        raise ReleaseError(f"{options.nginx_reload}: {problem}; {path} is as it was before")
    return problem


def may_have_share(options: Options, candidate: str) -> bool:
    """Whether nginx may send to a version: not where its file never came to name it, or was put back."""
    assert options.nginx is not None
    found = _in_force(Path(options.nginx))
    return found is not None and knows(decode_text(found), candidate)


def _in_force(nginx: Path) -> bytes | None:
    """What the file says, to the byte. Raises ReleaseError where it cannot be read."""
    try:
        found = nginx.read_bytes() if nginx.exists() else None
        decode_text(found or b"")
    except (OSError, UnicodeDecodeError) as error:
        raise ReleaseError(f"{nginx}: nginx's configuration cannot be read: {error}") from None
    return found


def _reload(command: str | None) -> str:
    if command is None:
        return ""
    try:
        done = subprocess.run(
            shlex.split(command), capture_output=True, text=True, timeout=_RELOAD_TIMEOUT, check=False
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else (done.stderr.strip() or f"exit code {done.returncode}")


def _described(work: Work, percent: float, default: str | None) -> Canary:
    return describe(work.options, work.host, work.model, work.version, percent, default)


def describe(
    options: Options, host: Host, model: str, candidate: str, percent: float, default: str | None
) -> Canary:
    """What nginx is to do: what it does for other servers and what the host allows stays.

    Raises ReleaseError for options with which no configuration can have been written, ClientError.
    """
    if options.nginx is None:
        raise ReleaseError("a canary needs --nginx FILE and --access-log FILE")
    servers, here = upstreams(host, Path(options.nginx))
    return Canary(
        model=model,
        candidate=candidate,
        percent=percent,
        default=default,
        upstreams=servers,
        candidate_upstreams=(here,),
        access_log=Path(str(options.access_log)).resolve(),
        listen=options.nginx_listen,
        response_timeout=_longest_answer(host, model),
        max_body=host.max_body,
    )


def describe_end(options: Options, model: str, candidate: str, longest: int) -> Canary:
    """Nothing for the candidate, where its server cannot be asked: nginx sends to those that it sends to now.

    `longest` is what the slowest answer takes, in seconds. Raises ReleaseError.
    """
    assert options.nginx is not None
    return Canary(
        model=model,
        candidate=candidate,
        percent=0,
        default=None,
        upstreams=servers_of(decode_text(_in_force(Path(options.nginx)) or b"")),
        access_log=Path(str(options.access_log)).resolve(),
        listen=options.nginx_listen,
        response_timeout=longest,
    )


def _longest_answer(host: Host, model: str) -> int:
    """Seconds, of the slowest of the model's versions; 1 where there is none, and so nobody is answered."""
    try:
        versions = host.server.management.versions(model)
    except ModelNotFound:
        versions = []
    return math.ceil(max((one.answer_bound for one in versions), default=1))


def _require_workers(work: Work) -> None:
    described = work.host.server.management.describe(work.model, work.version)
    if described.ready_workers < work.workers:
        raise ReleaseError(
            f"{work.model} {work.version}: {described.ready_workers} of {work.workers} workers are READY "
            f"on {work.host.name} during the canary; see model_log.log on the server"
        )


def _judged(work: Work, log: Path, since: Position) -> Judgement:
    found = read(log, since, work.model)
    candidate = found.get(work.version, Logged())
    default = found.get(work.default, Logged())
    baseline: tuple[Sequence[Sample], tuple[int, int]]
    baseline = (_samples(default), (default.errors, default.requests))
    if work.canary_baseline is None or default.requests >= MIN_SAMPLES:
        work.canary_baseline = baseline
    else:  # at 100 % nobody asks the default but some stragglers: as it was in the step before
        baseline = work.canary_baseline
    samples, counted = baseline
    findings: tuple[Finding, ...] = (
        judge_rate(counted, (candidate.errors, candidate.requests)),
        *judge_latency(samples, _samples(candidate), max_slowdown=work.options.max_slowdown),
    )
    return Judgement(findings)


def _samples(logged: Logged) -> list[Sample]:
    return [Sample("", 200, seconds) for seconds in logged.seconds]
