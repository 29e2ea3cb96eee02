"""WAV files of any kind, made for tests."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE


def pcm(samples: NDArray[np.float64], bits: int = 16) -> bytes:
    """Samples from -1 to 1 as they are stored."""
    if bits == 8:
        return (np.clip(np.round(samples * 128) + 128, 0, 255)).astype("u1").tobytes()
    whole = np.clip(np.round(samples * 2.0 ** (bits - 1)), -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1)
    if bits == 24:
        return whole.astype("<i4").reshape(-1, 1).view("u1")[:, :3].tobytes()
    return whole.astype(f"<i{bits // 8}").tobytes()


def wav(
    samples: NDArray[np.float64],
    rate: int = 16_000,
    bits: int = 16,
    form: int = PCM,
    *,
    before: bytes = b"",
    size: int | None = None,
) -> bytes:
    """A file of (frames,) or (frames, channels); chunks `before` the samples, whose `size` may be untrue."""
    frames = samples[:, None] if samples.ndim == 1 else samples
    channels, width = frames.shape[1], bits // 8
    kind = FLOAT if form == FLOAT else PCM
    data = frames.astype(f"<f{width}").tobytes() if kind == FLOAT else pcm(frames.ravel(), bits)
    head = struct.pack("<HHIIHH", form, channels, rate, rate * channels * width, channels * width, bits)
    if form == EXTENSIBLE:
        head += struct.pack("<HHIH14s", 22, bits, 0, kind, bytes(14))
    said = len(data) if size is None else size
    body = b"WAVEfmt " + struct.pack("<I", len(head)) + head + before
    body += b"data" + struct.pack("<I", said) + data + bytes(len(data) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tone(seconds: float, pitch: float = 440.0, rate: int = 16_000) -> NDArray[np.float64]:
    """A sine of half the height."""
    moments = np.arange(round(seconds * rate)) / rate
    sound: NDArray[np.float64] = 0.5 * np.sin(2 * np.pi * pitch * moments)
    return sound
