"""Speech in files and in streams: where it begins and ends, what is remembered, what is refused."""

from __future__ import annotations

import base64
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.params import build_params
from handlers.voice_activity import END, START, STREAM, Handler, Params, Segments
from tests.asking import ask, opened
from tests.waves import pcm, tone, wav
from torchmar.compare import Comparator

SILENCE = np.zeros(8_000)
SPOKEN = np.concatenate([SILENCE, tone(1), SILENCE, tone(0.1), SILENCE, tone(1.0)])
SPEECH = [{"start": 0.45, "end": 1.534}, {"start": 2.562, "end": 3.6}]  # the frames are of 32 ms


def loud(inputs: Any) -> dict[str, Any]:
    """Whoever is loud speaks; the state counts the frames."""
    samples, state = inputs["samples"], inputs["state"]
    assert samples.dtype == state.dtype == np.float32
    assert samples.shape[1] == 576
    probability = np.where(abs(samples[:, 64:]).max(axis=1) > 0.1, 0.9, 0.1)
    return {"probability": probability[:, None].astype(np.float32), "next_state": state + 1}


def ears(model: Any = loud, **params: Any) -> Any:
    return opened(Handler, params, Path("/nowhere"), model)


def sent(handler: Any, samples: Any, name: str = "a", **headers: str) -> Any:
    """The answer to a piece of a stream."""
    [answer] = ask(handler, pcm(samples), headers={STREAM: name, **headers})
    return answer


def test_speech_in_a_file() -> None:
    """In seconds; what is too short is none, and what lasts until the end ends there."""
    [answer] = ask(ears(), wav(SPOKEN))
    assert (answer.status, answer.content) == (200, {"seconds": 3.6, "speech": SPEECH})


def test_a_file_of_another_rate() -> None:
    """Is the same speech."""
    [answer] = ask(ears(), wav(np.repeat(SPOKEN, 3), 48_000, 24))
    for found, expected in zip(answer.content["speech"], SPEECH, strict=True):
        assert found == pytest.approx(expected, abs=0.04)


def test_silence_has_no_speech() -> None:
    """Nor has a sound of less than a frame."""
    found = ask(ears(), wav(SILENCE), wav(tone(0.01)))
    assert [answer.content["speech"] for answer in found] == [[], []]


def test_several_files_and_a_bad_one() -> None:
    """Files of one length share the passes; what is no file fails alone."""
    calls: list[int] = []

    def counted(inputs: Any) -> Any:
        calls.append(len(inputs["samples"]))
        return loud(inputs)

    text = base64.b64encode(wav(SPOKEN)).decode()
    found = ask(ears(counted), wav(SPOKEN), b"no", {"instances": [text, text]})
    assert [answer.status for answer in found] == [200, 400, 200]
    assert found[2].content["predictions"] == [found[0].content] * 2
    assert set(calls) == {3}


# -- streams ------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 9_000), max_size=12))
def test_a_stream_is_answered_as_the_whole_file(cuts: list[int]) -> None:
    """However it is cut, pieces of less than a frame and empty ones included."""
    handler, place, speech = ears(), 0, []
    for cut in cuts:
        answer = sent(handler, SPOKEN[place : place + cut])
        place = min(place + cut, len(SPOKEN))
        speech += answer.content["speech"]
        assert answer.content["seconds"] == round(place / 16_000, 3)
    last = sent(handler, SPOKEN[place:], **{END: "true"})
    assert speech + last.content["speech"] == SPEECH
    assert not last.content["speaking"]
    assert not handler._streams


def test_whoever_speaks_is_told_at_once() -> None:
    """Since when, too."""
    handler = ears()
    assert sent(handler, SILENCE).content == {"seconds": 0.5, "speaking": False, "since": None, "speech": []}
    found = sent(handler, tone(0.5)).content
    assert (found["speaking"], found["since"]) == (True, 0.48)


def test_the_end_of_a_stream_may_bring_nothing() -> None:
    """A request without a body."""
    handler = ears()
    sent(handler, SPOKEN)
    [answer] = ask(handler, b"", headers={STREAM: "a", END: "true"})
    assert answer.content["speech"] == SPEECH[1:]


def test_the_model_hears_the_end_of_the_frame_before() -> None:
    """4 ms of it, across the pieces of a stream, too; before the first there is silence."""
    heard: list[Any] = []

    def recorder(inputs: Any) -> Any:
        heard.append(inputs["samples"][0])
        return loud(inputs)

    handler = ears(recorder)
    for piece in np.split(tone(1), [100, 5_000]):
        sent(handler, piece)
    assert (heard[0][:64] == 0).all()
    for one, following in pairwise(heard):
        assert (following[:64] == one[-64:]).all()
    assert abs(np.concatenate([one[64:] for one in heard]) - tone(1)[: 31 * 512]).max() < 1e-4


def test_streams_do_not_hear_one_another() -> None:
    """Each has what is remembered of it alone; a new start forgets it."""
    handler = ears()
    sent(handler, tone(1), "a")
    assert not sent(handler, SILENCE, "b").content["speaking"]
    assert sent(handler, tone(0.1), "a").content["seconds"] == 1.1
    assert sent(handler, SILENCE, "a", **{START: "true"}).content["seconds"] == 0.5


def test_two_pieces_of_a_stream_in_one_batch() -> None:
    """The second would need what the first leaves: 409, and it can be sent again."""
    handler = ears()
    first, second = ask(handler, pcm(tone(0.1)), pcm(tone(0.1)), headers={STREAM: "a"})
    assert (first.status, second.status) == (200, 409)
    assert sent(handler, tone(0.1)).content["seconds"] == 0.2


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream that was silent for longest is forgotten, and whichever was so for too long."""
    handler = ears(max_streams=2, idle=10.0)
    for name in ("a", "b", "a", "c"):
        sent(handler, tone(0.1), name)
    assert list(handler._streams) == ["a", "c"]
    held = [value for value in vars(handler._streams["a"]).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes if array.base is None else array.base.nbytes for array in held) < 5_000
    later = time.monotonic() + 11
    monkeypatch.setattr("handlers.voice_activity.time.monotonic", lambda: later)
    assert sent(handler, tone(0.1), "c").content["seconds"] == 0.1
    assert list(handler._streams) == ["c"]


def test_a_model_that_fails_loses_nothing() -> None:
    """The same piece can be sent again."""
    handler = ears()
    sent(handler, tone(0.1))
    handler.models = {"model": lambda _: 1 / 0}
    assert sent(handler, tone(0.1)).status == 500
    handler.models = {"model": lambda inputs: {name: array * np.nan for name, array in loud(inputs).items()}}
    assert "NaN" in sent(handler, tone(0.1)).reason
    handler.models = {"model": loud}
    assert sent(handler, tone(0.1)).content["seconds"] == 0.2
    assert handler._streams["a"].state.max() == 6


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"\0", 400, "found 1 bytes; send 16-bit PCM, one channel, 16000 samples a second"),
        ({"data": 1}, 400, "no piece of a stream: found a dict"),
        (wav(tone(0.1)), 400, "found a WAV file"),
        (bytes(3_200_002), 413, "3,200,002 bytes in one piece, at most 3,200,000"),
    ],
)  # fmt: skip
def test_a_bad_piece_is_refused_and_the_stream_goes_on(body: Any, status: int, told: str) -> None:
    """With what a piece is."""
    handler = ears(limits={"max_seconds": 100.0})
    sent(handler, tone(0.1))
    [answer] = ask(handler, body, headers={STREAM: "a"})
    assert (answer.status, told in answer.reason) == (status, True), answer.reason
    assert sent(handler, tone(0.1)).content["seconds"] == 0.2
    assert "at most 200" in sent(handler, tone(0.1), "x" * 201).reason


# -- what is built ------------------------------------------------------------------------------


def test_silero_takes_its_own_names() -> None:
    """The batch of its state stands in the middle."""
    handler = ears()
    batch = handler.collate([handler.example()] * 3)
    given = handler.prepare({"samples": batch["samples"], "state": batch["state"]})
    assert (given["state"].shape, given["sr"].dtype, int(given["sr"])) == ((2, 3, 128), np.int64, 16_000)

    def silero(inputs: Any) -> Any:
        return {"output": loud(inputs)["probability"], "stateN": (inputs["state"] + 1).transpose(1, 0, 2)}

    [answer] = ask(ears(silero), wav(SPOKEN))
    assert answer.content["speech"] == SPEECH


@pytest.mark.parametrize(
    ("outputs", "told"),
    [
        ({"a": np.zeros((1, 1))}, "expected a probability"),
        ({"a": np.zeros((1, 2)), "b": np.zeros((1, 2, 128))}, "expected a probability"),
        ({"a": np.zeros((1, 1)), "b": np.zeros((1, 2, 64))}, "expected a probability"),
        ({"a": np.full((1, 1), 3.0), "b": np.zeros((1, 2, 128))}, "end the module in a sigmoid"),
    ],
)  # fmt: skip
def test_a_model_that_gives_something_else_is_refused(outputs: Any, told: str) -> None:
    """With what was expected."""
    with pytest.raises(ValueError, match=told):
        ears(lambda _: outputs).warm_up()
    ears().warm_up()


def test_pads_do_not_meet() -> None:
    """Or a stream would have to take back what it said."""
    with pytest.raises(ValueError, match=r"pad: at most half of `min_silence`, 0\.05"):
        build_params(Params, {"pad": 0.06})


def test_answers_are_compared_by_when() -> None:
    """A frame earlier or later is the same; another number of segments is not."""
    comparator = Comparator.of(ears().compare())
    one = {"seconds": 3.6, "speech": SPEECH}
    assert comparator.same(one, {"seconds": 3.6, "speech": [{"start": 0.482, "end": 1.534}, SPEECH[1]]})
    assert not comparator.same(one, {"seconds": 3.6, "speech": SPEECH[:1]})
    assert not comparator.same(one, {"seconds": 3.6, "speech": [{"start": 0.7, "end": 1.534}, SPEECH[1]]})


@pytest.mark.parametrize("rate", [8_000, 16_000])
@given(values=st.lists(st.floats(0, 1), max_size=60))
def test_segments_do_not_overlap(rate: int, values: list[float]) -> None:
    """They come in order, within the sound, for any probabilities."""
    params = build_params(Params, {"rate": rate})
    segments = Segments(params)
    found = segments.add(np.array(values)) + segments.last(len(values) * params.frame)
    times = [moment for one in found for moment in (one["start"], one["end"])]
    assert times == sorted(times)
    assert all(0 <= moment <= round(len(values) * 0.032, 3) for moment in times)
