"""Silero's detector, as its package carries it, in files and in streams; no torch but for the oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handlers.audio import read_wav, resampled
from handlers.voice_activity import END, STREAM
from tests.asking import ask
from tests.tasks.folders import golden, loading, opened_folder
from tests.waves import pcm, tone, wav

pytest.importorskip("silero_vad", reason="pip install --no-deps silero-vad==6.2.3")
pytestmark = pytest.mark.tasks


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("silero")
    loading("silero").fetch_files(folder)
    return folder / "silero_vad.onnx"


@pytest.fixture
def ears(artifact: Path) -> Any:
    return opened_folder("silero", model=artifact)


@pytest.fixture(scope="module")
def talk() -> Any:
    """A sentence, twice, with silence around: 16 kHz, 7 seconds."""
    wave = read_wav(golden("silero", "circuits.wav"))
    sentence = resampled(wave.mono(), wave.rate, 16_000)
    silence = np.zeros(16_000, np.float32)
    return np.concatenate([silence, sentence, silence, sentence, silence]).astype(np.float64)


def test_a_sentence_is_speech(ears: Any, talk: Any) -> None:
    """And silence, a tone and noise are none."""
    ears.warm_up()
    noise = 0.1 * np.random.default_rng(0).standard_normal(32_000)
    found = ask(ears, wav(talk), wav(np.zeros(32_000)), wav(tone(2)), wav(noise))
    assert [len(answer.content["speech"]) for answer in found] == [2, 0, 0, 0]
    for one, start in zip(found[0].content["speech"], (1.0, 3.8), strict=True):
        assert one["start"] == pytest.approx(start, abs=0.15)
        assert one["end"] == pytest.approx(start + 1.8, abs=0.15)


def test_segments_are_those_of_the_package(ears: Any, artifact: Path, talk: Any) -> None:
    """Its own get_speech_timestamps is the oracle."""
    torch = pytest.importorskip("torch")
    package = pytest.importorskip("silero_vad.utils_vad")
    [answer] = ask(ears, wav(talk, bits=32))
    oracle = package.get_speech_timestamps(
        torch.from_numpy(talk.astype(np.float32)), package.OnnxWrapper(str(artifact)),
        return_seconds=True, time_resolution=3,
    )  # fmt: skip
    assert answer.content["speech"] == oracle


def test_a_stream_hears_the_same_as_a_file(ears: Any, talk: Any) -> None:
    """In pieces of 100 ms; speech is told before it ends."""
    [whole] = ask(ears, wav(talk))
    pieces = [talk[place : place + 1_600] for place in range(0, len(talk), 1_600)]
    found = [
        ask(ears, pcm(piece), headers={STREAM: "call", END: str(number == len(pieces) - 1)})[0].content
        for number, piece in enumerate(pieces)
    ]
    assert [one for answer in found for one in answer["speech"]] == whole.content["speech"]
    assert found[15]["speaking"]
    assert not found[5]["speaking"]


def test_another_package_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With what to install."""
    load = loading("silero")
    monkeypatch.setattr(load, "SHA256", "0")
    with pytest.raises(ValueError, match=r"pip install --no-deps silero-vad==6\.2\.3"):
        load.fetch_files(tmp_path)
