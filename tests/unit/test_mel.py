"""Log-mel spectrograms: 30 seconds, 100 frames a second, bands by pitch."""

from __future__ import annotations

import numpy as np
import pytest

from handlers.mel import FRAMES, log_mel
from tests.waves import tone


def test_silence_is_the_floor() -> None:
    """1e-10, whose logarithm is -10: (-10 + 4) / 4."""
    found = log_mel(np.zeros(16_000, np.float32), 80)
    assert (found.shape, found.dtype) == ((80, FRAMES), np.dtype(np.float32))
    assert found == pytest.approx(-1.5)


@pytest.mark.parametrize(("pitch", "band"), [(200, 4), (1_000, 26), (2_000, 44), (4_000, 62), (7_000, 77)])
def test_a_tone_lies_in_the_band_of_its_pitch(pitch: float, band: int) -> None:
    """Slaney's scale: linear below 1 kHz, 37 hertz a band, logarithmic above; 8 kHz are 45.2 mels."""
    mels = pitch * 3 / 200 if pitch < 1_000 else 15 + np.log(pitch / 1_000) * 27 / np.log(6.4)
    assert abs(mels / (15 + np.log(8) * 27 / np.log(6.4)) * 81 - 1 - band) < 1
    found = log_mel(tone(1, pitch).astype(np.float32), 80)
    assert found[:, 50].argmax() == band
    assert found.max() - found.min() == pytest.approx(2, abs=1e-5)  # eight tens, a quarter each
    assert (found[:, 102:] == found.min()).all()  # after a second there is silence


def test_a_frame_hears_its_own_moment() -> None:
    """A click at half a second is loudest in frame 50."""
    click = np.zeros(16_000, np.float32)
    click[8_000] = 1
    assert log_mel(click, 128).sum(axis=0).argmax() == 50
    assert log_mel(click, 128).shape == (128, FRAMES)
