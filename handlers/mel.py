"""Compute Whisper's log-mel spectrograms: whisper/audio.py of openai/whisper, librosa's mel filters."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .audio import Samples

Array = NDArray[Any]

RATE = 16_000
"""Samples per second."""
SECONDS = 30
"""The length of one window in seconds."""
FRAMES = 3_000
"""Frames of one window: one every 10 ms."""

_FFT, _HOP = 400, 160
# Slaney's scale is linear below 1000 Hz and logarithmic above.
_LINEAR, _LOGARITHMIC = 200.0 / 3, 27.0 / np.log(6.4)


def log_mel(samples: Samples, bands: int) -> Array:
    """Return at most 30 seconds at 16 kHz as float32 (bands, 3000), about from -1 to 1; pads with silence."""
    padded = np.zeros(SECONDS * RATE, dtype=np.float32)
    padded[: len(samples)] = samples
    padded = np.pad(padded, _FFT // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FFT)[::_HOP][:FRAMES]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_FFT, dtype=np.float32) / _FFT)
    power = np.abs(np.fft.rfft(frames * window.astype(np.float32), axis=1)) ** 2
    logarithms = np.log10(np.maximum(power @ _filters(bands), 1e-10))
    logarithms = np.maximum(logarithms, logarithms.max() - 8.0)
    return np.ascontiguousarray((logarithms.T + 4.0) / 4.0, dtype=np.float32)


@cache
def _filters(bands: int) -> Array:
    """Return triangles of equal area over the mel scale from 0 to 8 kHz: float32 (frequencies, bands)."""
    frequencies = np.linspace(0, RATE / 2, _FFT // 2 + 1)
    edges = _hertz(np.linspace(0, _mels(RATE / 2), bands + 2))
    slopes = (frequencies[:, None] - edges) / np.append(np.diff(edges), np.inf)
    rising, falling = slopes[:, :-2], -(frequencies[:, None] - edges[2:]) / np.diff(edges)[1:]
    triangles = np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))
    filters: Array = triangles.astype(np.float32)
    return filters


def _mels(hertz: float) -> float:
    if hertz < 1_000:
        return hertz / _LINEAR
    return float(15 + np.log(hertz / 1_000) * _LOGARITHMIC)


def _hertz(mels: Array) -> Array:
    return np.where(mels < 15, mels * _LINEAR, 1_000 * np.exp((mels - 15) / _LOGARITHMIC))
