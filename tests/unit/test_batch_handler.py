"""The batch contract: as many answers as requests, in their order, and each failure its own request's."""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.base import MIN_ROWS_AT_ONCE, BatchHandler, Decoded, Inputs, Outputs, Refused, Request
from torchmar.worker import WorkerContext
from torchmar.worker._context import RequestState

MANIFEST = {"model": {"modelName": "doubler", "modelVersion": "1.0"}}
SECTION = {"task": "multiply", "models": {}, "params": {"factor": 2}}
CONFIG = {"handler": SECTION}
UNSPEAKABLE = {"infinite": np.inf, "not a number": np.nan}


@dataclass(frozen=True)
class Params:
    """By how much."""

    factor: int = 2


class Multiplier(BatchHandler[Params]):
    """Multiplies a number, or each of a list; "refuse" and "crash" are what they say."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.failure: BaseException | None = None
        self.rows_lost = 0

    def example(self) -> Inputs:
        return {"x": np.array([7.0])}

    def decode(self, request: Request) -> Decoded:
        body = request["body"]
        if body == "refuse":
            raise Refused("not today", HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        if body == "exhaust":
            raise MemoryError
        if body == "crash":
            raise RuntimeError("a secret of the decoder")
        if isinstance(body, list):
            return Decoded([{"x": np.array([number], dtype=float)} for number in body], listed=True)
        return Decoded([{"x": np.array([UNSPEAKABLE.get(body, body)], dtype=float)}])

    def infer(self, batch: Inputs) -> Outputs:
        numbers = batch["x"]
        self.batches.append(numbers[:, 0].tolist())
        if self.failure is not None:
            raise self.failure
        return {"y": (numbers * self.params.factor)[: len(numbers) - self.rows_lost]}

    def encode(self, output: Outputs, about: Any) -> float:
        if np.isinf(output["y"][0]):
            raise OverflowError("a secret of the encoder")
        return float(output["y"][0])


@dataclass(frozen=True)
class Answer:
    """One answer as its caller gets it."""

    status: int | None
    phrase: str | None
    content_type: str | None
    content: Any


def context_for(
    headers: Sequence[Mapping[str, str]] = (), config: Any = CONFIG, **options: Any
) -> WorkerContext:
    options = {"model_dir": Path("/nowhere"), "batch_size": 8, "gpu_id": None, **options}
    context = WorkerContext("doubler", manifest=MANIFEST, config=config, **options)
    context.request_processor = [RequestState(own) for own in headers]
    context.request_ids = {index: f"id-{index}" for index in range(len(headers))}
    return context


def ready() -> Multiplier:
    """An initialised handler that has forgotten its warm-up."""
    handler = Multiplier()
    handler.initialize(context_for())
    handler.batches.clear()
    return handler


def answers(
    handler: BatchHandler[Any], bodies: Sequence[Any], headers: Mapping[int, Mapping[str, str]] | None = None
) -> list[Answer]:
    """What comes back for one batch, after the checks that hold for every batch."""
    context = context_for([(headers or {}).get(index, {}) for index in range(len(bodies))])
    returned = handler.handle([{"body": body} for body in bodies], context)
    assert isinstance(returned, list)
    assert len(returned) == len(bodies)
    found = []
    for index, answer in enumerate(returned):
        status, phrase = context.get_response_status(index)
        found.append(Answer(status, phrase, context.get_response_content_type(index), json.loads(answer)))
    return found


def ok(content: Any) -> Answer:
    return Answer(200, "OK", "application/json", content)


def failed(index: int, what: str) -> Answer:
    error = f"{what}; the reason is in the server's model_log.log"
    content = {"error": error, "request_id": f"id-{index}"}
    return Answer(500, "Internal Server Error", "application/json", content)


REFUSED = Answer(415, "Unsupported Media Type", "application/json", {"error": "not today"})


def expected(index: int, body: Any) -> Answer:
    """What a request is answered with, whatever is in its batch besides."""
    if body == "refuse":
        return REFUSED
    if body == "crash":
        return failed(index, "the input could not be decoded")
    if isinstance(body, str):
        return failed(index, "the output could not be encoded")
    if isinstance(body, list):
        return ok({"predictions": [2.0 * number for number in body]})
    return ok(2.0 * body)


# -- one answer for each request ----------------------------------------------------------------

numbers = st.integers(-1_000, 1_000)
bodies = st.one_of(
    numbers, st.lists(numbers, min_size=1, max_size=4), st.sampled_from(["refuse", "crash", *UNSPEAKABLE])
)


@settings(max_examples=300)
@given(st.lists(bodies, min_size=1, max_size=12))
def test_every_request_of_any_batch_gets_its_own_answer(batch: list[Any]) -> None:
    """In whatever company: n requests, n answers, each the one it would get alone; in few forwards."""
    handler = ready()
    assert answers(handler, batch) == [expected(index, body) for index, body in enumerate(batch)]
    good = [body for body in batch if body not in ("refuse", "crash")]
    rows = sum(len(body) if isinstance(body, list) else 1 for body in good)
    assert len(handler.batches) == math.ceil(rows / MIN_ROWS_AT_ONCE)


def test_the_good_ones_are_inferred_together_and_in_order() -> None:
    """One forward pass over all instances of all good requests."""
    handler = ready()
    assert answers(handler, [1, "refuse", [2, 3], "crash", 4]) == [
        ok(2.0),
        REFUSED,
        ok({"predictions": [4.0, 6.0]}),
        failed(3, "the input could not be decoded"),
        ok(8.0),
    ]
    assert handler.batches == [[1, 2, 3, 4]]


def test_nothing_is_inferred_where_all_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    """A batch of nonsense costs no forward pass, and logs no error of an empty one."""
    handler = ready()
    caplog.clear()
    assert answers(handler, ["refuse"] * 3) == [REFUSED] * 3
    assert handler.batches == []
    assert caplog.records == []


def test_a_list_of_one_is_answered_with_a_list_of_one() -> None:
    """Whoever sends `instances` gets `predictions`, however many."""
    assert answers(ready(), [[5], 5]) == [ok({"predictions": [10.0]}), ok(10.0)]


def test_the_reason_of_a_crash_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    """The caller gets an id to quote; the traceback is in the log under the same id."""
    [answer] = answers(ready(), ["crash"])
    assert "secret" not in str(answer.content)
    assert answer.content["request_id"] == "id-0"
    assert "id-0" in caplog.text
    assert "a secret of the decoder" in caplog.text


# -- where the model fails ----------------------------------------------------------------------


def test_a_failed_forward_is_told_to_the_good_ones_alone(caplog: pytest.LogCaptureFixture) -> None:
    """They get 500 with their request's id; the refused ones keep their 4xx."""
    handler = ready()
    handler.failure = ValueError("a secret of the model")
    assert answers(handler, [1, "refuse", [2, 3]]) == [
        failed(0, "inference failed"),
        REFUSED,
        failed(2, "inference failed"),
    ]
    assert "a secret of the model" in caplog.text


@pytest.mark.parametrize(
    "failure",
    [MemoryError(), RuntimeError("CUDA out of memory"), RuntimeError("CUDA error: device-side assert")],
)
def test_what_torchserve_answers_with_507_is_left_to_it(failure: Exception) -> None:
    """Out of memory, on either side, is not the request's fault: the handler does not hide it."""
    handler = ready()
    handler.failure = failure
    with pytest.raises(type(failure)) as raised:
        answers(handler, [1, "refuse"])
    assert raised.value is failure


def test_a_request_that_exhausts_the_memory_is_left_to_torchserve() -> None:
    """While it is decoded, too: TorchServe answers 507, and not our 500."""
    with pytest.raises(MemoryError):
        answers(ready(), [1, "exhaust"])


@pytest.mark.parametrize("batch", [[1, 2, 3], [1, [2, 3]]])
def test_a_model_that_loses_rows_answers_nobody(batch: list[Any]) -> None:
    """Whose row is missing is unknown: better no answer than another's, or a shorter list."""
    handler = ready()
    handler.rows_lost = 1
    assert answers(handler, batch) == [failed(index, "inference failed") for index in range(len(batch))]


@pytest.mark.parametrize("unspeakable", UNSPEAKABLE)
def test_an_output_that_cannot_be_encoded_is_its_own_requests_failure(unspeakable: str) -> None:
    """The others get their answers; NaN, which JSON does not know, is none."""
    assert answers(ready(), [1, unspeakable, "refuse", 2]) == [
        ok(2.0),
        failed(1, "the output could not be encoded"),
        REFUSED,
        ok(4.0),
    ]


# -- what belongs to one request alone ----------------------------------------------------------


class Odd(Multiplier):
    """Takes rows of any length, and cannot infer a 13 or give an answer for a 14."""

    def decode(self, request: Request) -> Decoded:
        body = request["body"]
        if isinstance(body, tuple):
            return Decoded([{"x": np.array(body, dtype=float)}])
        if not isinstance(body, int):
            return body  # type: ignore[no-any-return]
        return super().decode(request)

    def infer(self, batch: Inputs) -> Outputs:
        numbers = batch["x"]
        self.batches.append(numbers[:, 0].tolist())
        if (numbers == 13).any():
            raise ValueError("a secret of the model")
        return {"y": numbers.sum(axis=1, keepdims=True) * self.params.factor}

    def encode(self, output: Outputs, about: Any) -> float:
        if output["y"][0] == 28:
            raise Refused("the model says nothing of this", HTTPStatus.INTERNAL_SERVER_ERROR)
        return super().encode(output, about)


def odd() -> Odd:
    handler = Odd()
    handler.initialize(context_for(config={**CONFIG, "responseTimeout": 20}))
    handler.batches.clear()
    return handler


def test_inputs_of_another_shape_do_not_fail_their_neighbours() -> None:
    """Those of one shape are inferred together, in the order in which they came."""
    handler = odd()
    assert answers(handler, [1, (2, 3), 4, (5, 6, 7), (8, 9)]) == [
        ok(2.0),
        ok(10.0),
        ok(8.0),
        ok(36.0),
        ok(34.0),
    ]
    assert handler.batches == [[1, 4], [2, 8], [5]]


@pytest.mark.parametrize(
    "undecoded", [None, 1.5, "text", np.zeros(3), Decoded],
    ids=["nothing", "a number", "text", "an array", "a class"],
)  # fmt: skip
def test_what_decode_must_not_give_is_its_own_requests_failure(undecoded: Any) -> None:
    """Least of all is it taken for the question what the model is."""
    found = answers(odd(), [1, undecoded, 2])
    assert found == [ok(2.0), failed(1, "the input could not be decoded"), ok(4.0)]


@pytest.mark.parametrize(("instances", "about"), [([], ()), ([{}], (1, 2)), ([{}, {}], (1,))])
def test_a_request_is_decoded_to_instances(instances: Any, about: Any) -> None:
    """At least one, and what is told about them of each: found where it is made."""
    with pytest.raises(TypeError, match="at least one instance"):
        Decoded(instances, about)


def test_what_fails_together_is_tried_again_alone(caplog: pytest.LogCaptureFixture) -> None:
    """One instance that the model cannot take fails its own request; the log has the reason under its id."""
    handler = odd()
    assert answers(handler, [1, 13, 2]) == [ok(2.0), failed(1, "inference failed"), ok(4.0)]
    assert handler.batches == [[1, 13, 2], [1], [13], [2]]
    assert "id-1" in caplog.text
    assert "a secret of the model" in caplog.text
    assert "id-0" not in caplog.text


def test_nothing_is_tried_again_once_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """TorchServe would end the worker at responseTimeout; half of it is left for the rest."""
    handler = odd()
    now = iter([0.0, 9.9, 9.9, 10.1, 10.2])
    monkeypatch.setattr("handlers.base.time.monotonic", lambda: next(now))
    assert answers(handler, [1, 13, 2]) == [ok(2.0), *(failed(i, "inference failed") for i in (1, 2))]
    assert handler.batches == [[1, 13, 2], [1]]


def test_encode_can_say_why_there_is_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    """To the caller, in its own words, and to the log; the others are answered."""
    reason = Answer(
        500, "Internal Server Error", "application/json", {"error": "the model says nothing of this"}
    )
    assert answers(odd(), [1, 14, 2]) == [ok(2.0), reason, ok(4.0)]
    assert "request id-1: the model says nothing of this" in caplog.text


class Talkative(Multiplier):
    """Refuses with what it was sent, answers with as many letters as it was told, fails with its text."""

    def decode(self, request: Request) -> Decoded:
        body = request["body"]
        if isinstance(body, int):
            return Decoded([{"x": np.array([body])}])
        raise Refused(f"found {body}") if request.get("refuse", True) else ValueError(body)

    def encode(self, output: Outputs, about: Any) -> Any:
        return "x" * int(output["y"][0])


def talkative(most: int) -> Talkative:
    handler = Talkative()
    handler.initialize(context_for(config={"handler": {**SECTION, "params": {"factor": 1}}}))
    handler._max_response = most
    return handler


@settings(max_examples=200)
@given(st.text() | st.text(st.characters(categories=["Cc", "Cs", "Zl"])) | st.just("x" * 3_000_000))
def test_a_reason_is_short_and_printable(sent: str) -> None:
    """Whatever of the request it repeats: keys of megabytes, line breaks, escapes, half a character."""
    [answer] = answers(talkative(6_553_500), [sent])
    reason = answer.content["error"]
    assert answer.status == 400
    assert reason.startswith("found ")
    assert len(reason) <= 500
    assert reason.isprintable()
    if sent.isprintable() and len(sent) < 100:
        assert reason == f"found {sent}"


def test_an_answer_that_the_frontend_would_not_take_is_its_own_error() -> None:
    """TorchServe ends the worker of a larger one, and fails the batch. Quotes count."""
    found = answers(talkative(1_000), [998, 999, 5, "text", 3_000_000])
    assert [answer.status for answer in found] == [200, 500, 200, 400, 500]
    assert found[0].content == "x" * 998
    reason = "the answer has 1,001 bytes: send fewer instances in one request, or raise max_response_size"
    assert found[1].content["error"].startswith(reason)


def test_answers_that_are_too_long_together_lose_the_longest() -> None:
    """Twice the limit is what the frontend reads in seconds; the short ones are answered."""
    found = answers(talkative(1_000), [600, 900, 5, 300, 500])
    assert [answer.status for answer in found] == [200, 500, 200, 200, 200]
    assert (
        found[1].content["error"].startswith("the answers of its batch are too long together: send it again")
    )
    assert [answer.status for answer in answers(talkative(1_000), [900, 900, 190])] == [200] * 3


@pytest.mark.parametrize("line", ["[PID]1", "[METRICS]Requests.Count:9|#Level:Host", "Torch worker started."])
def test_what_is_logged_is_never_taken_for_a_line_of_the_worker(
    line: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The frontend reads the worker's output: who could write such a line could have any process killed."""
    talkative(1_000).handle([{"body": f"\n{line}", "refuse": False}], context_for([{}]))
    assert line in caplog.text
    assert line not in caplog.text.splitlines()


# -- headers ------------------------------------------------------------------------------------

ABOUT = {"handler": {"task": "multiply"}, "model": MANIFEST["model"]}


def test_describe_tells_what_is_served() -> None:
    """TorchServe sends this header for `GET /models/NAME?customized=true`."""
    handler = ready()
    [answer] = answers(handler, [1], {0: {"describe": "True"}})
    assert answer.content == ABOUT
    assert handler.batches == []


def test_describe_tells_nothing_of_the_server() -> None:
    """Whoever may ask for predictions can send that header: no file, no folder, no setting of the server."""
    secret = {"record": {"folder": "/srv/private"}, "threads": 3, "params": {"factor": 3}}
    handler = Multiplier()
    manifest = {**MANIFEST["model"], "handler": "/srv/h.py", "configFile": "c.yaml", "extraFiles": "/srv"}
    context = context_for([{"describe": "True"}], config={"handler": {**SECTION, **secret}})
    context.manifest = {"model": manifest}
    handler.initialize(context)
    assert json.loads(handler.handle([{"body": 1}], context)[0]) == ABOUT


def test_a_description_that_fails_is_its_own_requests_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN in what a handler tells of itself, or an error of it, fails nobody else."""
    handler = ready()
    for about in (lambda: {"mean": math.nan}, lambda: 1 / 0):
        monkeypatch.setattr(handler, "about", about)
        assert answers(handler, [1, 2], {0: {"describe": "True"}}) == [
            failed(0, "the output could not be encoded"),
            ok(4.0),
        ]


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_callers_own_describe_header_changes_no_other_answer(position: int) -> None:
    """TorchServe passes on every header of a prediction: one caller's must not fail a batch."""
    found = answers(ready(), [1, 2, 3], {position: {"describe": "True"}})
    assert found[position].content == ABOUT
    assert [answer for index, answer in enumerate(found) if index != position] == [
        ok(2.0 * body) for index, body in enumerate([1, 2, 3]) if index != position
    ]


def test_explain_is_refused_for_its_own_request() -> None:
    """501, before anything is decoded; the others are answered."""
    handler = ready()
    found = answers(handler, [1, "crash", 3], {1: {"explain": "True"}, 2: {"explain": "False"}})
    error = {"error": "this model gives no explanations"}
    assert found == [ok(2.0), Answer(501, "Not Implemented", "application/json", error), ok(6.0)]


# -- initialize ---------------------------------------------------------------------------------


def test_initialize_makes_the_params_and_warms_up() -> None:
    """`params` are the handler's own dataclass; then the example is inferred, once."""
    handler = Multiplier()
    section = {**SECTION, "params": {"factor": 3}}
    handler.initialize(context_for(config={"handler": section, "minWorkers": 1}, gpu_id=1))
    assert handler.params == Params(3)
    assert handler.files == Path("/nowhere/model_source")
    assert handler.batches == [[7.0]]


def test_a_model_that_cannot_infer_does_not_become_ready() -> None:
    """The worker dies of the warm-up's error, before a request can."""
    handler = Multiplier()
    handler.failure = ValueError("expected 3 channels")
    with pytest.raises(ValueError, match="expected 3 channels"):
        handler.initialize(context_for())


@pytest.mark.parametrize(
    "config", [None, {}, {"minWorkers": 1}, {"handler": None}, {"handler": "resnet"}, {"handler": {}}]
)
def test_an_archive_without_a_handler_section_says_what_to_do(config: Any) -> None:
    """What is missing, where, and the remedy."""
    with pytest.raises(ValueError, match=r"/nowhere: .*no `handler` section; rebuild the archive"):
        Multiplier().initialize(context_for(config=config))


def test_handlers_from_elsewhere_are_warned_of(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """A PYTHONPATH that hides the archive's own `handlers` would serve code that nobody verified."""
    Multiplier().initialize(context_for(model_dir=tmp_path))
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "not from the archive" in record.getMessage()


def test_the_archives_own_handlers_are_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """As it is in every healthy worker."""
    Multiplier().initialize(context_for(model_dir=Path(__file__).resolve().parents[2]))
    assert caplog.records == []


class Meeting(Multiplier):
    """Each decode waits for another one that runs at the same time; alone it is refused."""

    def setup(self) -> None:
        self.meeting = threading.Barrier(2, timeout=0.5 if self.params.factor == 1 else 30)

    def decode(self, request: Request) -> Decoded:
        try:
            self.meeting.wait()
        except threading.BrokenBarrierError:
            raise Refused("alone") from None
        return super().decode(request)


@pytest.mark.parametrize(("threads", "status"), [(1, 400), (2, 200)])
def test_requests_are_decoded_side_by_side_where_there_are_threads(threads: int, status: int) -> None:
    """Pictures take milliseconds each; a worker with several processors decodes a batch on all of them."""
    handler = Meeting()
    section = {**SECTION, "threads": threads, "params": {"factor": threads}}
    handler.initialize(context_for(config={"handler": section}))
    context = context_for([{}, {}])
    handler.handle([{"body": 1}, {"body": 2}], context)
    assert [context.get_response_status(index)[0] for index in range(2)] == [status] * 2


# -- answers in parts ----------------------------------------------------------------------------


class Counting(Multiplier):
    """Counts to a number in parts where it came alone and is even; a 4 fails in the middle."""

    def streams(self, about: Any) -> bool:
        return bool(about)

    def decode(self, request: Request) -> Decoded:
        decoded = super().decode(request)
        even = [one["x"][0] % 2 == 0 for one in decoded.instances]
        return Decoded(decoded.instances, even, decoded.listed)

    def stream(self, inputs: Inputs, about: Any) -> Iterator[str]:
        for number in range(int(inputs["x"][0])):
            if number == 2 and inputs["x"][0] == 4:
                raise Refused("three is too much")
            yield f"{number} "


def test_some_of_a_batch_are_answered_in_parts() -> None:
    """The others get their answers beside them; a list is answered whole; each failure is its own."""
    frontend = Frontend()
    handler = Counting()
    handler.initialize(context_for())
    context = context_for([{}] * 4)
    context.cl_socket = frontend
    found = handler.handle([{"body": 2}, {"body": 3}, {"body": [2, 4]}, {"body": 4}], context)
    assert len(found) == 4
    whole = b"".join([*frontend.sent, *(each.encode() if isinstance(each, str) else each for each in found)])
    assert b"0 " in whole
    assert b"6.0" in whole
    assert b"[4.0, 8.0]" in whole
    assert b"three is too much" in whole
    assert context.get_response_content_type(0) == Counting.stream_type


class Frontend:
    """Takes what a worker sends."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def sendall(self, message: bytes) -> None:
        self.sent.append(bytes(message))
