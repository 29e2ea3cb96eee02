"""Decode a request's WAV files into one channel of float32 at the model's rate.

WAV as Microsoft and IBM define it (Multimedia Programming Interface and Data Specifications 1.0, 1991; New
Multimedia Data Types, 1994): PCM of 8, 16, 24 and 32 bits, IEEE float of 32 and 64, any number of channels.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from math import ceil, gcd
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from .params import AtLeast, Positive
from .requests import json_of, looks_like_json, rows_of, some, text_of, value_of
from .worker.answers import Refused

Samples = NDArray[np.float32]
"""One channel, from -1 to 1."""

FORMS = (
    "send a WAV file as the raw body (curl -T FILE), as multipart field `data` (curl -F data=@FILE), or as "
    'JSON {"data": {"b64": "…"}} or {"instances": [{"b64": "…"}]}'
)

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_TYPES: Mapping[tuple[int, int], np.dtype[Any]] = {
    (_PCM, 8): np.dtype("u1"),
    (_PCM, 16): np.dtype("<i2"),
    (_PCM, 24): np.dtype("V3"),
    (_PCM, 32): np.dtype("<i4"),
    (_FLOAT, 32): np.dtype("<f4"),
    (_FLOAT, 64): np.dtype("<f8"),
}
_CONVERT = "convert it: ffmpeg -i FILE -c:a pcm_s16le OUT.wav"
_LOWEST, _HIGHEST = 4_000, 192_000  # samples per second
_UNKNOWN_LENGTH = 0x7FFF_F000  # a program that cannot seek back writes this or 0


@dataclass(frozen=True)
class Limits:
    """The limits of one request."""

    max_bytes: Positive = 6_000_000
    """The most bytes of one file; TorchServe's own max_request_size is 6,553,500."""
    max_seconds: Annotated[float, AtLeast(0)] = 120.0
    """The most seconds of all files of a request together."""
    max_instances: Positive = 8
    """The most files in one JSON request."""


def recordings(request: Mapping[str, Any], limits: Limits, rate: int) -> tuple[list[Samples], bool]:
    """Return the sounds of one request at `rate` per second, and whether they came as a list.

    Raises Refused.
    """
    files, listed = _files(request, limits)
    places = [f"instances[{i}]: " if listed else "" for i in range(len(files))]
    waves = [_opened(raw, limits, where) for raw, where in zip(files, places, strict=True)]
    seconds = sum(wave.seconds for wave in waves)
    if seconds > limits.max_seconds:
        raise Refused(
            f"{seconds:.1f} seconds in one request, at most {limits.max_seconds:g} are allowed; cut it up",
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        )
    return [_samples(wave, rate, where) for wave, where in zip(waves, places, strict=True)], listed


def _opened(raw: bytes, limits: Limits, where: str) -> Wave:
    if len(raw) > limits.max_bytes:
        raise Refused(
            f"{where}{len(raw):,} bytes, at most {limits.max_bytes:,} are allowed",
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        )
    try:
        return read_wav(raw)
    except ValueError as error:
        raise Refused(f"{where}{error}") from None


def _samples(wave: Wave, rate: int, where: str) -> Samples:
    samples = wave.mono()
    if not np.isfinite(samples).all():
        raise Refused(f"{where}some of its samples are NaN or infinity; {_CONVERT}")
    return resampled(samples.clip(-1, 1), wave.rate, rate)  # float files may exceed full scale


# -- what a request carries ---------------------------------------------------------------------


def _files(request: Mapping[str, Any], limits: Limits) -> tuple[list[bytes], bool]:
    value = value_of(request, "sound", FORMS)
    if isinstance(value, bytes | bytearray):
        raw = bytes(value)
        text = None if raw[:4] in _KINDS else text_of(raw)
        if text is None or not looks_like_json(text):
            return [raw], False
        value = json_of(text, "a WAV file", FORMS)
    elif isinstance(value, str):
        value = json_of(value, "a WAV file", FORMS)
    if isinstance(value, Mapping) and "data" in value:
        value = value["data"]
    rows, listed = rows_of(value, limits.max_instances)
    places = [f"instances[{i}]: " if listed else "" for i in range(len(rows))]
    return [_from_base64(row, place) for row, place in zip(rows, places, strict=True)], listed


def _from_base64(row: Any, where: str) -> bytes:
    text = row.get("b64") if isinstance(row, Mapping) else row
    if not isinstance(text, str):
        found = f"keys {some(row)}" if isinstance(row, Mapping) else f"a {type(row).__name__}"
        raise Refused(f'{where}expected {{"b64": "<base64 of a WAV file>"}}, found {found}; {FORMS}')
    try:
        return base64.b64decode("".join(text.rpartition("base64,")[2].split()), validate=True)
    except ValueError as error:
        raise Refused(f"{where}not base64: {error}") from None


# -- WAV ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wave:
    """A WAV file: `frames` has a row for each moment and a column for each channel, as stored."""

    rate: int
    bits: int
    frames: NDArray[Any]

    @property
    def seconds(self) -> float:
        """Return its length in seconds."""
        return len(self.frames) / self.rate

    def mono(self) -> Samples:
        """Return the mean of its channels, from -1 to 1."""
        frames = self.frames
        middle, scale = 0.0, 1.0
        if frames.dtype.kind == "V":  # 24 bits become the upper three bytes of 32
            wide = np.zeros((*frames.shape, 4), dtype=np.uint8)
            wide[..., 1:] = np.ascontiguousarray(frames).view(np.uint8).reshape(*frames.shape, 3)
            frames = wide.view("<i4")[..., 0]
        if frames.dtype.kind == "u":
            middle, scale = 128.0, 128.0
        elif frames.dtype.kind == "i":
            scale = 2.0 ** (8 * frames.itemsize - 1)
        mean: Samples = ((frames.mean(axis=1, dtype=np.float64) - middle) / scale).astype(np.float32)
        return mean


def read_wav(raw: bytes) -> Wave:
    """Read a WAV file. Raises ValueError with what was found and the remedy."""
    if raw[:4] != b"RIFF" or raw[8:12] != b"WAVE":
        raise ValueError(f"no WAV file: found {_kind(raw)}; {_CONVERT}")
    form: bytes | None = None
    for name, start, size in _chunks(raw):
        if name == b"fmt ":
            form = raw[start : start + size]
        elif name == b"data":
            if form is None:
                raise ValueError(f"a WAV file whose samples precede their format; {_CONVERT}")
            return _wave(form, raw, start, size)
    raise ValueError("a WAV file without samples: it has no chunk `data`")


def _chunks(raw: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and length of each chunk; the caller checks an impossible length."""
    place = 12
    while place + 8 <= len(raw):
        name, size = struct.unpack_from("<4sI", raw, place)
        yield name, place + 8, size
        place += 8 + size + size % 2


def _wave(form: bytes, raw: bytes, start: int, size: int) -> Wave:
    if len(form) < 16:
        raise ValueError("a WAV file without a sample format: its chunk `fmt ` is too short")
    tag, channels, rate, _, align, bits = struct.unpack_from("<HHIIHH", form)
    if tag == _EXTENSIBLE and len(form) >= 26:
        [tag] = struct.unpack_from("<H", form, 24)
    kind = _TYPES.get((tag, bits))
    if kind is None:
        raise ValueError(f"a WAV file with {bits} bits of format {tag}, which is not read here; {_CONVERT}")
    if not channels or align != channels * kind.itemsize:
        raise ValueError(f"a WAV file that says {channels} channels and {align} bytes for all; {_CONVERT}")
    if not _LOWEST <= rate <= _HIGHEST:
        raise ValueError(f"a WAV file with {rate:,} samples a second, expected {_LOWEST:,} to {_HIGHEST:,}")
    there = len(raw) - start
    if size > there and size < _UNKNOWN_LENGTH:
        raise ValueError(f"a WAV file that is cut short: {there:,} of {size:,} bytes of samples are there")
    # ffmpeg writes 0xFFFFFFFF into a pipe, others 0: both mean all that follows.
    size = min(size or there, there)
    frames = np.frombuffer(raw, kind, size // align * channels, start).reshape(-1, channels)
    if not len(frames):
        raise ValueError("a WAV file without samples")
    return Wave(rate, bits, frames)


_KINDS = {
    b"RIFF": "another RIFF file",
    b"fLaC": "FLAC",
    b"OggS": "Ogg",
    b"ID3\x03": "MP3",
    b"ID3\x04": "MP3",
    b"FORM": "AIFF",
    b"RF64": "RF64, a WAV of over 4 GB",
    b"\x1aE\xdf\xa3": "WebM or Matroska",
}


def _kind(raw: bytes) -> str:
    if not raw:
        return "nothing"
    if raw[4:8] == b"ftyp":
        return "MP4"
    if raw[:2] in {b"\xff\xfb", b"\xff\xf3", b"\xff\xfa"}:
        return "MP3"
    return _KINDS.get(raw[:4], f"bytes that begin with {raw[:4]!r}")


# -- rates --------------------------------------------------------------------------------------


def resampled(samples: Samples, rate: int, wanted: int) -> Samples:
    """Return the same sound at another rate, by its spectrum; keeps what the lower rate can hold.

    Pads the end with silence, so that it does not run into the beginning.
    """
    if rate == wanted or not len(samples):
        return samples
    common = gcd(rate, wanted)
    step, new_step = rate // common, wanted // common
    # The padded sound needs a whole number of samples at both rates. Rounding the steps up to a product of
    # small numbers adds little and makes the transform several times as fast.
    steps = ceil((len(samples) + rate // 10) / step)
    power = max(0, steps.bit_length() - 5)
    steps = -(-steps >> power) << power
    spectrum = np.fft.rfft(samples, steps * step)
    kept = min(steps * step, steps * new_step) // 2 + 1
    found = np.fft.irfft(spectrum[:kept], steps * new_step) * (new_step / step)
    return found[: ceil(len(samples) * wanted / rate)].astype(np.float32)
