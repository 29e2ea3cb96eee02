"""What is known of real traffic: what requests wait behind it, how it fares, and where nobody tells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from torchmar import mar, pack
from torchmar.client import JobQueue, ModelVersion, Sample
from torchmar.compare import TOLERANCE
from torchmar.errors import ClientError, ReleaseError
from torchmar.golden import GoldenRequest
from torchmar.measure import queues as queues_module
from torchmar.measure.queues import Queues
from torchmar.measure.samples import Sample as Answer
from torchmar.release import Host, Options, history, resume
from torchmar.release import _release as release_module
from torchmar.release._gate import CandidateRun, Traffic, traffic
from torchmar.release._watch import watch

from .servers_in_memory import ARCHIVE, Clock, Fake, FleetOf, as_server, serving, version, write

ALONE = replace(version("1.0"), batch_size=1)


class Telling(Fake):
    """A server with the model `m` that tells these figures, one after another; None: it tells nothing."""

    def __init__(
        self,
        told: Iterator[list[Sample] | None],
        described: ModelVersion = ALONE,
        pending: Sequence[int] = (),
    ) -> None:
        super().__init__("local", "1.0", dict.fromkeys(("1.0", "2.0"), described))
        self.told, self.pending = told, list(pending)

    def describe(self, name: str, version: str | None = None, *, customized: bool = False) -> ModelVersion:
        queue = JobQueue(100, self.pending.pop(0) if self.pending else 0)
        return replace(super().describe(name, version, customized=customized), queue=queue)

    def samples(self) -> list[Sample]:
        found = next(self.told)
        if found is None:
            raise ClientError("this needs the server's metrics address, which was not given")
        return found


def counted(requests: float, seconds: float, asked: str = "1.0") -> list[Sample]:
    labels = {"model_name": "m", "model_version": asked}
    figures = {"ts_inference_requests_total": requests, "ts_queue_latency_microseconds": seconds * 1e6}
    return [Sample(name, labels, value) for name, value in figures.items()]


REQUEST = GoldenRequest("a", b"")


def asked(server: Telling, times: int = 1) -> list[Answer]:
    """So many samples, of 1 s each."""
    queues = Queues(as_server(server), "m", ["1.0"])
    return [queues.ask("1.0", REQUEST, 9.0) for _ in range(times)]


def waited(server: Telling, times: int = 1) -> list[float | None]:
    """What these are said to have waited."""
    return [sample.waited for sample in asked(server, times)]


def test_the_wait_of_a_request_is_what_its_version_waited_meanwhile() -> None:
    """Counted a moment after the answer; where others ask for the version, too, it is their mean."""
    told = iter([counted(5, 1.0), counted(6, 1.0), counted(6, 1.5), counted(10, 2.5)])
    assert waited(Telling(told), 2) == [pytest.approx(0.5), pytest.approx(0.25)]


def test_a_request_that_fails_waits_for_nothing_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """TorchServe does not count it, and it says nothing of how fast the version is."""
    monkeypatch.setattr(queues_module, "send", lambda *_: Answer("a", 503, 1.0))
    assert waited(Telling(iter([counted(1, 1.0)]))) == [0.0]


BATCHES = replace(version("1.0"), batch_size=8, max_batch_delay=5)


@pytest.mark.parametrize(("seconds", "expected"), [(0.004, 0.0), (0.006, 0.001)])
def test_a_wait_for_the_batch_is_the_versions_own(seconds: float, expected: float) -> None:
    """A worker waits for others to fill its batch, also where nobody comes."""
    told = iter([counted(5, 1.0), counted(6, 1.0 + seconds)])
    assert waited(Telling(told, BATCHES)) == [pytest.approx(expected, abs=1e-9)]


def test_who_may_be_in_a_batch_with_others_is_known() -> None:
    """Somebody else came meanwhile, or just before: then it is not known how long it waited."""
    others = [(5, 1.0, 0), (6, 1.001, 0), (7, 1.002, 1), (8, 1.003, 1), (9, 1.004, 1)]
    told = iter([counted(n, s) + counted(other, 0.0, "default") for n, s, other in others])
    assert waited(Telling(told, BATCHES), 4) == [0.0, None, None, 0.0]


def test_the_candidate_is_alone_in_its_batches() -> None:
    """What the default is asked, by whoever names no version, is none of its business."""
    told = iter([counted(5, 1.0, "2.0"), counted(6, 1.001, "2.0") + counted(50, 0.0, "default")])
    queues = Queues(as_server(Telling(told, BATCHES)), "m", ["1.0", "2.0"])
    assert queues.ask("2.0", REQUEST, 9.0).waited == 0.0


def test_without_metrics_only_an_empty_queue_is_known() -> None:
    """Before a request and after it; figures that never grow tell as little."""
    silent = Telling(iter([None]), pending=[0, 0, 0, 0, 3, 0, 0])
    assert waited(silent, 5) == [None, 0.0, None, None, 0.0]
    assert waited(Telling(iter([counted(5, 0.0)] * 9))) == [None]
    assert waited(Telling(iter([[]]))) == [None]


# -- traffic ------------------------------------------------------------------------------------


def page(good: int, bad: int, requests: int = 0, seconds: float = 0.0) -> list[Sample]:
    labels = {"model_name": "m", "model_version": "default"}
    return [
        Sample("Requests2XX", {}, good),
        Sample("Requests5XX", {}, bad),
        Sample("ts_inference_requests_total", labels, requests),
        Sample("ts_inference_latency_microseconds", labels, seconds * 1e6),
    ]


def test_answers_to_ourselves_are_no_traffic() -> None:
    """However many calls a look takes: those that failed neither."""
    server = Telling(iter([page(100, 10), page(160, 13)]))
    before = traffic(as_server(server), "m")
    server.answers.update({2: 40, 5: 2})
    after = traffic(as_server(server), "m")
    assert before is not None
    assert after is not None
    assert after - before == Traffic(answers=21, errors=1, requests=0, seconds=0.0)


@pytest.mark.parametrize("told", [None, []])
def test_no_metrics_or_an_empty_page_are_no_traffic(told: list[Sample] | None) -> None:
    """An empty page is what metrics_mode=log answers: it does not say that nothing was asked."""
    assert traffic(as_server(Telling(iter([told]))), "m") is None


def run_of(before: Traffic | None, told: Sequence[list[Sample] | None], seconds: float) -> CandidateRun:
    """A version under watch, which is asked nothing."""
    host = Host("local", as_server(Telling(iter(told))))
    archive = replace(ARCHIVE, manifest={"model": {"modelName": "m", "modelVersion": "1.0"}})
    run = CandidateRun(host, archive, "m-1.0.mar", 1, None, Options(watch=seconds), before=before)
    run.golden = ()
    return run


def watched(before: Traffic | None, told: Sequence[list[Sample] | None]) -> str:
    """The text of a watch of one look."""
    run = run_of(before, told, 0.0)
    text = watch(run)
    assert run.judgements["watch"].outcome.value == "pass"
    return text


def test_a_watch_says_what_it_cannot_see() -> None:
    """Neither metrics, nor a time before, nor enough requests: nobody shall think that traffic was judged."""
    known = Traffic(1000, 0, 1000, 10.0)
    assert "give --metrics" in watched(known, [None, None])
    assert "nothing is known of the traffic before" in watched(None, [page(0, 0), page(0, 0)])
    text = watched(known, [page(0, 0), page(3, 0)])
    both = "too little traffic to judge its errors and latency: 1000 requests before the switch, 0 since"
    assert text.startswith("1 look in ")
    assert text.endswith(f"; {both}")
    assert "to judge its latency: " in watched(known, [page(0, 0), page(100, 0)])


def judged(before: Traffic, told: Sequence[list[Sample] | None]) -> dict[str, str]:
    """The outcomes of a watch with a look for each of these pages."""
    now = Clock()
    run = run_of(before, told, len(told) - 2.5)
    run.clock, run.sleep = now, lambda _: now.sleep(1.0)
    with suppress(ReleaseError):
        watch(run)
    return {finding.what: finding.outcome.value for finding in run.judgements["watch"].findings}


@pytest.mark.parametrize(
    ("bad", "seconds", "rate", "latency"),
    [
        (0, 0.01, "pass", "pass"),
        (5, 0.01, "fail", "pass"),
        (0, 0.02, "pass", "fail"),
        (0, 0.014, "pass", "pass"),
    ],
)
def test_real_requests_after_the_switch_are_held_against_those_before(
    bad: int, seconds: float, rate: str, latency: str
) -> None:
    """Ten requests between two looks: how many failed, and how long they took."""
    pages = [page(10 * n - bad * n, bad * n, 10 * n, 10 * n * seconds) for n in range(8)]
    found = judged(Traffic(1000, 0, 1000, 10.0), pages)
    assert (found["error rate"], found["traffic"]) == (rate, latency)


def test_one_slow_request_is_no_slow_version() -> None:
    """Nor are a few requests anything to judge a latency by."""
    pages = [page(10 * n, 0, 10 * n, 0.1 * n + (5.0 if n > 3 else 0.0)) for n in range(8)]
    assert judged(Traffic(1000, 0, 1000, 10.0), pages)["traffic"] == "pass"
    assert "traffic" not in judged(Traffic(10, 0, 10, 0.1), pages)


# -- going on -----------------------------------------------------------------------------------


def interrupted(
    fleet_of: FleetOf, monkeypatch: pytest.MonkeyPatch, fake: Fake
) -> tuple[list[str], list[CandidateRun]]:
    """The steps that `resume` takes after a release to 2.0 was killed in, or after, its watch."""
    fleet = fleet_of(fake)
    steps = ["gate", "default", "watch"]
    writer = write(fleet, steps={"local": steps}, workers={"local": 1}, sha256="", archive="m-2.0.mar")
    for step in steps:
        told = {"traffic": asdict(Traffic(100, 1, 90, 9.0))} if step == "gate" else {}
        with writer.step("local", step) as note:
            note.update(told)
    taken, works = [], []

    def take(work: CandidateRun, step: str) -> str:
        works.append(work)
        taken.append(step)
        return ""

    monkeypatch.setattr(release_module, "run_step", take)
    monkeypatch.setattr(release_module, "_archive_of", lambda *_: archive_of("2.0"))
    assert resume(fleet, "m").outcome == "promoted"
    assert history(fleet.journal("m")).unfinished is None
    return taken, works


def archive_of(number: str, path: Path = Path("m-2.0.mar")) -> mar.Archive:
    manifest: dict[str, Any] = {"model": {"modelName": "m", "modelVersion": number}}
    return mar.Archive(path, "", 0, manifest, {}, (), None, None, None)


def test_a_switch_that_is_taken_anew_is_watched_anew(
    fleet_of: FleetOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody has set the old default again since; what was watched then says nothing of now."""
    fake = serving("1.0", "1.0", "2.0")
    taken, _ = interrupted(fleet_of, monkeypatch, fake)
    assert taken == ["gate", "default", "watch"]


def test_what_was_watched_is_not_watched_again(fleet_of: FleetOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the switch stands, nothing is to be done but to write that it is finished."""
    fake = serving("2.0", "1.0", "2.0")
    assert interrupted(fleet_of, monkeypatch, fake)[0] == []


def test_the_traffic_before_the_switch_is_known_after_a_resume(
    fleet_of: FleetOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate has journaled it: else a watch that is resumed would judge no error and no latency."""
    _, works = interrupted(fleet_of, monkeypatch, serving("1.0", "1.0", "2.0"))
    assert works[0].before == Traffic(100, 1, 90, 9.0)


# -- tolerance ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "told", "expected"),
    [
        (None, None, TOLERANCE),
        ("accept: {agreement: 1.0}", None, TOLERANCE),
        ("accept: {max_abs_error: 0.05}", None, 0.05),
        ("accept: {max_abs_error: 0.05}", 0.2, 0.2),
        ("accept: {max_abs_error: many}", None, TOLERANCE),
        ("accept: 7", None, TOLERANCE),
    ],
)
def test_numbers_are_compared_as_the_archive_accepts(
    tmp_path: Path, spec: str | None, told: float | None, expected: float
) -> None:
    """A model that was quantized says in its model.yaml how far off it may be; an option says otherwise."""
    contents = {mar.MANIFEST: b'{"model": {"modelName": "m", "modelVersion": "2.0"}}'}
    if spec is not None:
        contents[mar.SPEC] = spec.encode()
    path = tmp_path / "m-2.0.mar"
    pack.write(contents, path)
    host = Host("local", as_server(serving("1.0", "1.0")))
    work = CandidateRun(host, mar.read(path), path.name, 1, "1.0", Options(tolerance=told))
    assert work.comparator.tolerance == expected


@pytest.mark.parametrize(
    ("accept", "told", "expected"),
    [("{}", None, 1.0), ("{agreement: 0.98}", None, 0.98), ("{agreement: 0.98}", 1.0, 1.0)],
)
def test_as_many_answers_may_differ_as_the_archive_accepts(
    tmp_path: Path, accept: str, told: float | None, expected: float
) -> None:
    """Of golden requests, as of those it was measured with when it was built."""
    contents = {
        mar.MANIFEST: b'{"model": {"modelName": "m", "modelVersion": "2.0"}}',
        mar.SPEC: f"accept: {accept}".encode(),
    }
    path = tmp_path / "m-2.0.mar"
    pack.write(contents, path)
    host = Host("local", as_server(serving("1.0", "1.0")))
    work = CandidateRun(host, mar.read(path), path.name, 1, "1.0", Options(min_agreement=told))
    assert work.min_agreement == expected
