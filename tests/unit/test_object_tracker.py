"""What is one and the same thing in successive frames keeps its id; sequences do not mix, nor pile up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.base import Inputs, Outputs
from handlers.object_tracker import Handler
from handlers.params import build_params
from handlers.tracks import Sequences, TooMany, Tracker
from tests.asking import NOWHERE, Answer, ask, opened
from tests.pictures import array, listed, picture
from torchmar.compare import Comparator
from torchmar.handler import names_of_ours

FRAME = picture(100, 100)


class Film:
    """A model that sees what the next frame of a film holds: boxes with scores, of class 0."""

    def __init__(self, *frames: list[tuple[list[float], float]]) -> None:
        self.frames: Iterator[Any] = iter(frames)

    def __call__(self, inputs: Inputs) -> Outputs:
        seen: list[Any] = [next(self.frames, []) for _ in range(len(inputs["pixels"]))]
        most = max(1, *map(len, seen))
        boxes, scores = np.zeros((len(seen), most, 4), np.float32), np.zeros((len(seen), most, 1), np.float32)
        for row, frame in enumerate(seen):
            for place, (box, score) in enumerate(frame):
                boxes[row, place], scores[row, place] = box, score
        return {"boxes": boxes, "scores": scores}


def ready(*frames: Any, **params: Any) -> Handler:
    film = Film([], *frames)  # the warm-up takes the first
    handler: Handler = opened(Handler, {"size": [100, 100], **params}, NOWHERE, film)
    handler.warm_up()
    return handler


def of(name: str, **more: str) -> dict[str, str]:
    return {
        "ts_request_sequence_id": name,
        **{f"ts_request_sequence_{key}": value for key, value in more.items()},
    }


def ids(answer: Answer) -> list[int]:
    assert answer.status == 200, answer.body
    return [row["id"] for row in answer.content]


def at(x: float, score: float = 0.9) -> tuple[list[float], float]:
    return [x, 10, x + 20, 60], score


# -- frames of one sequence ---------------------------------------------------------------------


def test_a_thing_that_moves_keeps_its_id() -> None:
    """Two of them, and one that comes later; the answer has the detector's keys besides."""
    handler = ready([at(0), at(60)], [at(5), at(65)], [at(10), at(70), at(40)])
    found = [ask(handler, FRAME, headers=[of("a")])[0] for _ in range(3)]
    assert [sorted(ids(answer)) for answer in found] == [[1, 2], [1, 2], [1, 2, 3]]
    where = [{row["id"]: row["box"][0] for row in answer.content} for answer in found]
    assert where == [{1: 0, 2: 60}, {1: 5, 2: 65}, {1: 10, 2: 70, 3: 40}]
    assert found[0].content[0].keys() == {"id", "label", "index", "score", "box"}


def test_frames_that_share_a_batch_come_in_their_order() -> None:
    """Two sequences, mixed: each has ids of its own."""
    handler = ready([at(0)], [at(80)], [at(5)], [at(75)])
    answers = ask(handler, *[FRAME] * 4, headers=[of("a"), of("b"), of("a"), of("b")])
    assert [ids(answer) for answer in answers] == [[1], [1], [1], [1]]
    assert len(ask(handler, FRAME, headers=[of("a")])) == 1


def test_a_thing_that_was_hidden_comes_back() -> None:
    """Where it would be by now; after max_unseen frames it is another one."""
    frames: Any = [at(0)], [at(4)], [at(8)], [], [], [at(20)]
    handler = ready(*frames)
    assert [ids(ask(handler, FRAME, headers=[of("a")])[0]) for _ in frames] == [[1], [1], [1], [], [], [1]]
    handler = ready(*frames, max_unseen=1)
    assert [ids(ask(handler, FRAME, headers=[of("a")])[0]) for _ in frames][-1] == [2]


def test_a_low_score_continues_a_track_and_begins_none() -> None:
    """keep_threshold and threshold."""
    handler = ready([at(0), at(50, 0.3)], [at(0, 0.3)], [at(0, 0.1)], keep_threshold=0.2)
    assert [ids(ask(handler, FRAME, headers=[of("a")])[0]) for _ in range(3)] == [[1], [1], []]


def test_a_label_keeps_its_own_tracks() -> None:
    """A dog where a person was is a new thing."""
    tracker = Tracker(least_overlap=0.3, begin=0.5, most_unseen=5)
    box, score = array([0, 0, 10, 10]), array(0.9)
    assert tracker.update(box, score, np.array([0])) == [1]
    assert tracker.update(box, score, np.array([16])) == [2]
    assert tracker.update(box, score, np.array([0])) == [1]


# -- sequences ----------------------------------------------------------------------------------


def test_several_frames_in_one_request_are_a_sequence_of_their_own() -> None:
    """Without a header; the same request gets the same answer each time it is sent."""
    handler = ready([at(0), at(60)], [at(5)], [at(60)], [at(65), at(5)])
    first, second = (ask(handler, listed(FRAME, FRAME))[0].content["predictions"] for _ in range(2))
    assert [[row["id"] for row in rows] for rows in first] == [[1, 2], [1]]
    assert [[row["id"] for row in rows] for rows in second] == [[1], [1, 2]]


def test_an_answer_does_not_depend_on_how_often_frames_are_encoded() -> None:
    """While an archive is built they are: for the module, and for the artifact."""
    handler = ready()
    decoded = handler.decode(_request(listed(FRAME, FRAME)))
    output = {"boxes": array([0, 0, 9, 9]), "scores": array([0.9]), "shape": np.array([100, 100])}
    for _ in range(2):
        assert [handler.encode(output, about)[0]["id"] for about in decoded.about] == [1, 1]
    assert handler.encode(output, None)[0]["id"] == 1


def test_a_sequence_begins_anew_and_ends() -> None:
    """By TorchServe's headers."""
    handler = ready([at(0)], [at(50)], [at(50)], [at(0)], [at(50)])

    def tell(**more: str) -> list[int]:
        return ids(ask(handler, FRAME, headers=[of("a", **more)])[0])

    assert (tell(), tell(), tell(start="true"), tell(end="true"), tell()) == ([1], [2], [1], [2], [1])
    assert handler.about()["sequences"] == 1


def test_a_frame_without_a_sequence_is_refused() -> None:
    """With the header to send; others of the batch are answered."""
    refused, answered = ask(ready([at(0)]), FRAME, FRAME, headers=[{}, of("a")])
    assert (refused.status, answered.status) == (400, 200)
    assert "no sequence: send the header ts_request_sequence_id" in refused.reason
    [long] = ask(ready(), FRAME, headers=[of("a" * 201)])
    assert "201 characters, at most 200" in long.reason


def test_a_frame_that_is_no_picture_changes_nothing() -> None:
    """Its sequence goes on."""
    handler = ready([at(0)], [at(5)])
    good, bad, after = ask(handler, FRAME, b"no picture", FRAME, headers=[of("a")] * 3)
    assert (ids(good), bad.status, ids(after)) == ([1], 400, [1])


def test_sequences_are_bounded() -> None:
    """One more is refused, and takes nothing from those that are followed."""
    handler = ready(*[[at(0)]] * 9, max_sequences=2)
    answers = ask(handler, *[FRAME] * 4, headers=[of("a"), of("b"), of("c"), of("a")])
    assert [answer.status for answer in answers] == [200, 200, 429, 200]
    assert "2 sequences are followed already" in answers[2].reason
    ended, begun = ask(handler, FRAME, FRAME, headers=[of("a", end="true"), of("c")])
    assert (ended.status, begun.status) == (200, 200)


def test_a_sequence_that_is_idle_is_forgotten() -> None:
    """When another one begins, and not before its time."""
    now = [0.0]
    kept: Sequences[list[str]] = Sequences(list, most=2, idle=60, clock=lambda: now[0])
    kept.of("a").append("kept")
    now[0] = 30
    kept.of("b")
    now[0] = 60
    with pytest.raises(TooMany):
        kept.of("c")
    assert kept.of("a") == ["kept"]
    now[0] = 91
    kept.of("c")
    assert (len(kept), kept.of("a")) == (2, ["kept"])


# -- the rest -----------------------------------------------------------------------------------


def test_params_that_contradict_each_other() -> None:
    """The detector's own checks hold, too."""
    with pytest.raises(ValueError, match="keep_threshold: write a number that is not above"):
        build_params(Handler.params_type(), {"size": [9, 9], "threshold": 0.3, "keep_threshold": 0.4})
    with pytest.raises(ValueError, match="only: write `labels`"):
        build_params(Handler.params_type(), {"size": [9, 9], "only": ["person"]})


def test_answers_with_other_ids_are_compared() -> None:
    """Where two things walk on: numbers that are changed for others say the same, an exchange does not."""
    film = [at(0), at(60)], [at(5), at(65)]
    [answer] = ask(ready(*film), listed(FRAME, FRAME))
    first, second = answer.content["predictions"]
    comparator = Comparator.of(ready().compare())
    renumbered = {"predictions": [[{**row, "id": 9 - row["id"]} for row in one] for one in (first, second)]}
    exchanged = {"predictions": [first, [{**row, "id": 3 - row["id"]} for row in second]]}
    assert comparator.same(answer.content, renumbered)
    assert not comparator.same(answer.content, exchanged)


def test_it_is_one_of_ours() -> None:
    """A handler that derives from another is found as the others are."""
    assert {"object_detector", "object_tracker", "image_segmenter"} <= set(names_of_ours())
    assert Handler.params_type().__module__ == "handlers.object_tracker"


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9)), max_size=6, unique_by=lambda one: one[0]),
        max_size=12,
    )
)
def test_an_id_is_given_once_a_frame_and_never_again(film: list[list[tuple[int, int]]]) -> None:
    """Whatever boxes and scores come; ids count upwards, and old tracks do not pile up."""
    tracker = Tracker(least_overlap=0.3, begin=0.5, most_unseen=2)
    seen: dict[int, int] = {}
    for number, frame in enumerate(film):
        boxes = np.array([[x, 0, x + 5, 10] for x, _ in frame], dtype=np.float64).reshape(-1, 4)
        scores = np.array([score / 10 for _, score in frame])
        given_ = tracker.update(boxes, scores, np.zeros(len(frame), np.int64))
        told = [each for each in given_ if each is not None]
        assert len(told) == len(set(told))
        assert all(number - seen.get(each, number) <= 3 for each in told)
        fresh = [each for each in told if each not in seen]
        assert all(each > max(seen, default=0) for each in fresh)
        seen |= dict.fromkeys(told, number)


def _request(body: Any) -> Any:
    from handlers.requests import Request

    return Request({"body": body}, {})
