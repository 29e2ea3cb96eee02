"""A canary in the client: the shares are what was asked, a key stays on its side, and nothing is lost."""

from __future__ import annotations

import io
import json
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from torchmar.client import Inference, NoTokens, Timeouts, connect
from torchmar.client._http import InferenceTransport
from torchmar.client._split import Split, point_of
from torchmar.errors import ClientError, ModelNotFound, Unavailable, WorkerDied

GONE = (404, "ModelVersionNotFoundException", "Model version: 2.0 does not exist for model: m")
BUSY = (503, "ServiceUnavailableException", 'Model "m" has no worker to serve inference request.')
DIED = (500, "InternalServerException", "Worker died.")

SHARES = st.floats(min_value=0, max_value=1)


class Answers(requests.Session):
    """A server without a network: notes each path, and fails those that `failing` has."""

    def __init__(self, failing: dict[str, tuple[int, str, str]] | None = None) -> None:
        super().__init__()
        self.failing = failing or {}
        self.paths: list[str] = []
        self.headers_seen: list[dict[str, str]] = []

    def request(self, method: str, url: str, **options: Any) -> requests.Response:  # type: ignore[override]
        assert method == "POST"
        path = url.removeprefix("http://server")
        self.paths.append(path)
        self.headers_seen.append(options["headers"])
        response = requests.Response()
        response.url = url
        response.status_code = 200
        response.raw = io.BytesIO(b"{}")
        if path in self.failing:
            status, kind, message = self.failing[path]
            response.status_code = status
            content = {"code": status, "type": kind, "message": message}
            response.raw = io.BytesIO(json.dumps(content).encode())
        return response


def client(session: Answers, split: dict[str, float], seed: int = 0) -> Inference:
    transport = InferenceTransport("http://server", session, NoTokens(), "inference", Timeouts())
    return Inference(transport, split=split, chance=random.Random(seed))


@contextmanager
def refused(match: str) -> Iterator[None]:
    with pytest.raises(ClientError, match=match):
        yield


@given(st.text(), st.text())
def test_a_key_has_one_point(model: str, key: str) -> None:
    """Always the same, and on the line from 0 to 1."""
    assert point_of(model, key) == point_of(model, key)
    assert 0 <= point_of(model, key) < 1


def test_the_point_is_pinned() -> None:
    """Another release of torchmar must not send every user to the other side in the middle of a canary."""
    assert point_of("mine", "user-17") == 0.4977698252881262
    assert point_of("other", "user-17") != point_of("mine", "user-17")


@given(st.text(), SHARES, SHARES)
def test_a_growing_share_only_takes_from_the_default(key: str, one: float, other: float) -> None:
    """Nobody who had the candidate at 5 % is back with the default at 25 %."""
    small, large = sorted((one, other))
    point = point_of("mine", key)
    if Split.of({"2.0": small}).version_at(point) == "2.0":
        assert Split.of({"2.0": large}).version_at(point) == "2.0"


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0, 0.5))
def test_the_last_of_two_grows_without_moving_the_first(point: float, a: float, b: float, c: float) -> None:
    """Keys move from the default to the last candidate, and between no others."""
    small, large = sorted((b, c))
    before = Split.of({"a": a, "b": small}).version_at(point)
    after = Split.of({"a": a, "b": large}).version_at(point)
    assert before == after or (before, after) == (None, "b")


@given(st.floats(0, 1, exclude_max=True))
def test_nothing_and_everything_are_shares(point: float) -> None:
    """At 0 nobody meets the candidate, at 1 everybody does."""
    assert Split.of({"2.0": 0}).version_at(point) is None
    assert Split.of({"2.0": 1}).version_at(point) == "2.0"


def test_keys_are_spread_as_the_share_says() -> None:
    """Of 20,000 users 5 % are 1,000, give or take four standard deviations (31 each)."""
    split = Split.of({"2.0": 0.05})
    hit = sum(split.version_at(point_of("mine", f"user-{n}")) == "2.0" for n in range(20_000))
    assert abs(hit - 1000) < 4 * 31


@pytest.mark.parametrize(
    ("split", "match"),
    [
        ({"2.0": 1.5}, "1.5 for 2.0, expected a share from 0 to 1"),
        ({"2.0": -0.1}, "from 0 to 1"),
        ({"2.0": float("nan")}, "from 0 to 1"),
        ({"2.0": True}, "from 0 to 1"),
        ({"2.0": "5%"}, "from 0 to 1"),
        ({"": 0.1}, "expected a string"),
        ({2.0: 0.1}, "expected a string such as '2.0'"),
        ({"a/b": 0.1}, "no prediction could ask for it"),
        ({"2.0": 0.7, "3.0": 0.7}, "are 1.4 together"),
    ],
)
def test_what_cannot_be_a_split_is_refused(split: Any, match: str) -> None:
    """At once, by name and value, before anything is sent."""
    with refused(match):
        connect(inference="http://127.0.0.1:1", split=split)


def test_tenths_that_are_one_in_all_are_no_error() -> None:
    """Ten times 0.1 is more than 1 for who adds floats one after another."""
    assert Split.of({str(n): 0.1 for n in range(10)}).version_at(0.95) == "9"


def test_predictions_without_a_key_are_drawn() -> None:
    """A quarter of 2,000, and the answer tells who was asked."""
    session = Answers()
    inference = client(session, {"2.0": 0.25})
    asked = Counter(inference.predict("mine", b"x").version for _ in range(2000))
    assert abs(asked["2.0"] - 500) < 80
    assert Counter(session.paths) == {
        "/predictions/mine/2.0": asked["2.0"],
        "/predictions/mine": asked[None],
    }


def test_predictions_with_a_key_are_sticky() -> None:
    """In another client, with another chance, the same; the key goes along for a canary in nginx."""
    keys = [f"user {n}" for n in range(50)]
    session = Answers()
    sides = []
    for seed in (1, 2):
        inference = client(session, {"2.0": 0.5}, seed)
        sides.append([inference.predict("mine", b"x", key=key).version for key in keys])
    assert sides[0] == sides[1]
    assert set(sides[0]) == {None, "2.0"}
    assert session.headers_seen[0]["X-Torchmar-Key"] == "user%200"


def test_a_pinned_prediction_is_not_split() -> None:
    """Who names a version gets it."""
    session = Answers()
    assert client(session, {"2.0": 1}).predict("mine", b"x", version="1.0").version == "1.0"
    assert session.paths == ["/predictions/mine/1.0"]


@pytest.mark.parametrize("why", [GONE, BUSY], ids=["gone", "no worker"])
def test_a_candidate_that_cannot_answer_loses_nothing(why: tuple[int, str, str]) -> None:
    """The default answers, the prediction says instead of whom, and the client counts it."""
    session = Answers({"/predictions/mine/2.0": why})
    inference = client(session, {"2.0": 1})
    answer = inference.predict("mine", b"x")
    assert (answer.status, answer.version, answer.instead_of) == (200, None, "2.0")
    assert inference.fallbacks == {"2.0": 1}
    assert session.paths == ["/predictions/mine/2.0", "/predictions/mine"]


@pytest.mark.parametrize(("why", "error"), [(GONE, ModelNotFound), (BUSY, Unavailable)])
def test_a_default_that_cannot_answer_either_is_an_error(
    why: tuple[int, str, str], error: type[ClientError]
) -> None:
    """Asked once, no more."""
    session = Answers({"/predictions/mine/2.0": why, "/predictions/mine": why})
    with pytest.raises(error):
        client(session, {"2.0": 1}).predict("mine", b"x")
    assert len(session.paths) == 2


def test_what_a_worker_may_have_begun_is_not_asked_again() -> None:
    """A worker that died had the request in hand: twice is not once."""
    session = Answers({"/predictions/mine/2.0": DIED})
    with pytest.raises(WorkerDied):
        client(session, {"2.0": 1}).predict("mine", b"x")
    assert session.paths == ["/predictions/mine/2.0"]
