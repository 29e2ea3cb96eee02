"""WAV files of any rate and width → one channel of float32; what is no such file is told."""

from __future__ import annotations

import base64
import json
import struct
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from handlers.audio import Limits, read_wav, recordings, resampled
from handlers.base import Refused
from tests.waves import EXTENSIBLE, FLOAT, PCM, tone, wav

FORMS = [(PCM, 8), (PCM, 16), (PCM, 24), (PCM, 32), (FLOAT, 32), (FLOAT, 64), (EXTENSIBLE, 16), (EXTENSIBLE, 24)]  # fmt: skip  # noqa: E501
sounds = arrays.arrays(
    np.float64, st.tuples(st.integers(1, 40), st.integers(1, 3)), elements=st.floats(-1, 0.75, width=32)
)


@given(sounds, st.sampled_from(FORMS), st.integers(4_000, 192_000))
def test_what_was_written_is_read(samples: Any, form: tuple[int, int], rate: int) -> None:
    """Whatever the width and the number of channels: their mean, as closely as the width allows."""
    kind, bits = form
    wave = read_wav(wav(samples, rate, bits, kind))
    assert (wave.rate, wave.seconds) == (rate, len(samples) / rate)
    found = wave.mono()
    assert found.dtype == np.float32
    assert abs(found - samples.mean(axis=1)).max() <= max(2.0 ** (1 - bits), 1e-6)


@given(st.binary(max_size=100) | st.binary(max_size=100).map(lambda raw: wav(tone(0.001))[:44] + raw)
       | st.tuples(st.integers(0, 100), st.binary(min_size=1, max_size=4)).map(lambda cut: wav(tone(0.002))[: cut[0]] + cut[1] + wav(tone(0.002))[cut[0] + len(cut[1]) :]))  # fmt: skip  # noqa: E501
def test_any_bytes_are_a_sound_or_a_reason(raw: bytes) -> None:
    """No other error, and no endless loop."""
    found = None
    with suppress(ValueError):
        found = read_wav(raw).mono()
    assert found is None or found.ndim == 1


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"", "no WAV file: found nothing"),
        (b"fLaC....", "found FLAC; convert it: ffmpeg -i FILE"),
        (b"ID3\x04....", "found MP3"),
        (b"\x00\x00\x00 ftypM4A ", "found MP4"),
        (b"RIFF\0\0\0\0AVI ", "found another RIFF file"),
        (b"hello", r"bytes that begin with b'hell'"),
        (wav(tone(0.01))[:36], "it has no chunk `data`"),
        (wav(tone(0.01))[:-8], "cut short: 312 of 320 bytes"),
        (wav(tone(0)), "a WAV file without samples"),
        (wav(tone(0.01), form=7, bits=8), "8 bits of format 7, which is not read here; convert it"),
        (wav(tone(0.01), rate=1), "1 samples a second, expected 4,000 to 192,000"),
        (wav(tone(0.01)).replace(b"\2\0\x10\0", b"\3\0\x10\0"), "1 channels and 3 bytes"),
        (b"RIFF\0\0\0\0WAVEfmt \x02\0\0\0\1\0data\0\0\0\0", "too short"),
    ],
)  # fmt: skip
def test_what_is_no_wav_is_told(raw: bytes, told: str) -> None:
    """With what was found and what to do."""
    with pytest.raises(ValueError, match="WAV") as raised:
        read_wav(raw)
    assert told in str(raised.value)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000])
def test_a_pipe_does_not_know_the_length(size: int) -> None:
    """What ffmpeg writes into one: all that follows is sound."""
    found = read_wav(wav(tone(0.01), size=size))
    assert len(found.frames) == 160


def test_chunks_that_say_something_else_are_passed_over() -> None:
    """Of an odd length too, which is filled up."""
    before = b"LIST" + struct.pack("<I", 3) + b"abc\0"
    assert len(read_wav(wav(tone(0.01), before=before)).frames) == 160


# -- rates --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 44_099, 48_000, 96_000])
def test_a_tone_keeps_its_pitch(rate: int) -> None:
    """At any rate; near the ends it may swing in."""
    found = resampled(tone(0.5, rate=rate).astype(np.float32), rate, 16_000)
    assert found.dtype == np.float32
    assert len(found) - 8_000 in {0, 1}
    assert abs(found[:8_000] - tone(0.5))[400:-400].max() < 2e-3


def test_what_the_lower_rate_cannot_hold_is_gone() -> None:
    """A tone of 10 kHz does not come back as one of 6 kHz."""
    high = tone(0.5, 10_000, 48_000).astype(np.float32)
    assert abs(resampled(high, 48_000, 16_000))[400:-400].max() < 1e-3


@given(st.integers(4_000, 192_000), st.integers(1, 50))
def test_a_sound_keeps_its_length(rate: int, count: int) -> None:
    """Within a sample."""
    found = resampled(np.zeros(count, np.float32), rate, 16_000)
    assert 0 <= len(found) - count * 16_000 / rate < 1


# -- what a request carries ---------------------------------------------------------------------

RAW = wav(tone(0.1, rate=8_000), 8_000)
TEXT = base64.b64encode(RAW).decode()


@pytest.mark.parametrize(
    "request_",
    [
        {"body": bytearray(RAW)},
        {"data": bytearray(RAW)},
        {"body": {"data": {"b64": TEXT}}},
        {"body": {"b64": TEXT}},
        {"body": bytearray(json.dumps({"data": TEXT}).encode())},
        {"body": json.dumps({"data": f"data:audio/wav;base64,{TEXT}"})},
    ],
)
def test_a_file_comes_in_many_ways(request_: Any) -> None:
    """The sound is the same."""
    [found], listed = recordings(request_, Limits(), 16_000)
    assert not listed
    assert (found == resampled(read_wav(RAW).mono(), 8_000, 16_000)).all()


def test_several_files_are_a_list() -> None:
    """Each its own."""
    found, listed = recordings({"body": {"instances": [{"b64": TEXT}, TEXT]}}, Limits(), 8_000)
    assert listed
    assert [len(one) for one in found] == [800, 800]


LONG = base64.b64encode(wav(tone(0.6, rate=8_000), 8_000)).decode()


def test_a_file_louder_than_there_is_is_clipped() -> None:
    """As a float can be, up to what no spectrum holds."""
    raw = wav(1e30 * np.array([1, -1, 0.25e-30]), bits=64, form=FLOAT)
    [found], _ = recordings({"body": raw}, Limits(), 16_000)
    assert found.tolist() == [1, -1, 0.25]


@pytest.mark.parametrize(
    ("request_", "status", "told"),
    [
        ({}, 400, "no sound: found an empty request"),
        ({"picture": b""}, 400, "found only ['picture']"),
        ({"body": b"{no"}, 400, "neither a WAV file nor JSON"),
        ({"body": {"sound": 1}}, 400, "found keys ['sound']"),
        ({"body": 7}, 400, "found a int"),
        ({"body": {"instances": []}}, 400, "at least one item"),
        ({"body": {"instances": [{"b64": TEXT}, {"b64": "?"}]}}, 400, "instances[1]: not base64"),
        ({"body": {"instances": [{"b64": TEXT}, {"b64": "AAAA"}]}}, 400, "instances[1]: no WAV file"),
        ({"body": {"instances": [TEXT] * 3}}, 413, "3 instances in one request, at most 2"),
        ({"body": wav(tone(1.5))}, 413, "1.5 seconds in one request, at most 1 are allowed; cut it up"),
        ({"body": {"instances": [LONG, LONG]}}, 413, "1.2 seconds in one request"),
        ({"body": wav(np.array([np.inf, 0]), bits=64, form=FLOAT)}, 400, "NaN or infinity"),
        ({"body": wav(tone(1), bits=32)}, 413, "64,044 bytes, at most 50,000"),
        ({"body": wav(np.array([np.nan, 0]), bits=32, form=FLOAT)}, 400, "NaN or infinity"),
    ],
)  # fmt: skip
def test_what_is_refused_says_why(request_: Any, status: int, told: str) -> None:
    """Nothing that a caller makes large is opened before it is counted."""
    with pytest.raises(Refused) as raised:
        recordings(request_, Limits(max_bytes=50_000, max_seconds=1.0, max_instances=2), 16_000)
    assert (raised.value.status, told in raised.value.reason) == (status, True), raised.value.reason
