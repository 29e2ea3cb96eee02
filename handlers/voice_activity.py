"""Detect voice activity: when somebody speaks, in WAV files, or in a stream that arrives in pieces."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from typing import Annotated, Any, Literal

import numpy as np

from .audio import Limits, Samples, recordings
from .base import Array, BatchHandler, Decoded, Inputs, Outputs, Refused, Request
from .params import AtLeast, Positive, Share
from .requests import value_of

STREAM, START, END = (f"ts_request_sequence_{name}" for name in ("id", "start", "end"))

_WIDTH = (2, 128)  # of the model's memory: Silero's LSTM, its hidden state and its cell
_LONGEST_ID = 200


@dataclass(frozen=True)
class Params:
    """What counts as speech, and how many streams there may be."""

    rate: Literal[8000, 16000] = 16000
    """The model's samples per second; files with other rates are converted."""
    threshold: Share = 0.5
    """Speech begins in a frame of at least this probability."""
    end_threshold: Share | None = None
    """Speech ends below this probability; the default is 0.15 less than `threshold`."""
    min_speech: Annotated[float, AtLeast(0)] = 0.25
    """The least seconds of speech; anything shorter is ignored."""
    min_silence: Annotated[float, AtLeast(0)] = 0.1
    """The least seconds of a pause that ends speech."""
    pad: Annotated[float, AtLeast(0)] = 0.03
    """Seconds added before and after speech."""
    limits: Limits = Limits()
    """The limits of one request."""
    max_streams: Positive = 1000
    """The most streams to remember; the one that was idle for longest gives way to a new one."""
    idle: Annotated[float, AtLeast(1)] = 300.0
    """Seconds after which an idle stream is forgotten."""

    def __post_init__(self) -> None:
        if 2 * self.pad > self.min_silence:
            raise ValueError(f"pad: at most half of `min_silence`, {self.min_silence / 2:g}; else two meet")

    @property
    def frame(self) -> int:
        """Return the samples of one frame: 32 ms."""
        return self.rate * 32 // 1000

    @property
    def context(self) -> int:
        """Return the samples before a frame that the model sees again: 4 ms."""
        return self.rate * 4 // 1000


@dataclass
class Segments:
    """Turns frames' probabilities, as they come, into speech in seconds.

    The rules are those of get_speech_timestamps in silero_vad/utils_vad.py, one frame at a time: speech
    begins at `threshold`, and ends when the probability stays below `end_threshold` for `min_silence`.
    """

    params: Params
    frames: int = 0
    begun: int | None = None
    """The sample at which speech began; None in silence."""
    paused: int | None = None
    """The sample at which speech may have ended."""

    def add(self, probabilities: Array) -> list[dict[str, float]]:
        """Return the speech that ended within these frames."""
        found = [self._next(float(probability)) for probability in probabilities]
        return [one for one in found if one is not None]

    def _next(self, probability: float) -> dict[str, float] | None:
        params, here = self.params, self.frames * self.params.frame
        self.frames += 1
        end_threshold = params.end_threshold
        if end_threshold is None:
            end_threshold = max(params.threshold - 0.15, 0.01)
        if probability >= params.threshold:
            self.paused = None
            if self.begun is None:
                self.begun = here
        elif self.begun is not None and probability < end_threshold:
            if self.paused is None:
                self.paused = here
            if here - self.paused >= params.min_silence * params.rate:
                return self._ended(self.paused, here)
        return None

    def last(self, samples: int) -> list[dict[str, float]]:
        """Return the speech that ends with a sound of `samples` samples."""
        found = None if self.begun is None else self._ended(samples, samples)
        return [] if found is None else [found]

    def _ended(self, end: int, most: int) -> dict[str, float] | None:
        assert self.begun is not None
        start, rate, pad = self.begun, self.params.rate, int(self.params.pad * self.params.rate)
        self.begun = self.paused = None
        if end - start <= self.params.min_speech * rate:
            return None
        start, end = max(0, start - pad), min(most, end + pad)
        return {"start": round(start / rate, 3), "end": round(end / rate, 3)}


@dataclass
class Stream:
    """The memory of a sound that arrives in pieces: a few kilobytes, however long it is."""

    segments: Segments
    state: Array
    context: Samples
    rest: Samples
    """Less than a frame, kept for the next piece."""
    samples: int = 0
    used: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class _Piece:
    """One piece of a stream."""

    name: str
    stream: Stream
    rest: Samples
    samples: int
    last: bool


class Handler(BatchHandler[Params]):
    """Answers `{"seconds", "speech": [{"start", "end"}, …]}`, in seconds from the beginning.

    A request with the header ts_request_sequence_id is a piece of a stream: 16-bit PCM, one channel, at
    `rate`, without a header. Its answer lists the speech that ended in it, and has `speaking`;
    ts_request_sequence_end: true ends the stream.

    The model takes `samples`, float32 (n, context + frame), and `state`, float32 (n, 2, 128); it gives
    `probability`, (n, 1), and then `next_state`. Silero's own ONNX files work unchanged.
    """

    def setup(self) -> None:
        """Start without streams."""
        self._streams: OrderedDict[str, Stream] = OrderedDict()
        self._in_batch: dict[str, object] = {}

    def handle(self, data: Sequence[Mapping[str, Any]], context: Any) -> list[Any]:
        """Answer a batch with at most one piece of each stream, because the next piece needs its result."""
        self._in_batch.clear()
        return super().handle(data, context)

    # -- instances ------------------------------------------------------------------------------

    def _instance(self, samples: Samples, context: Samples, state: Array) -> Inputs:
        return {"samples": samples, "context": context, "state": state}

    def _blank(self) -> tuple[Samples, Array]:
        return np.zeros(self.params.context, dtype=np.float32), np.zeros(_WIDTH, dtype=np.float32)

    def example(self) -> Inputs:
        """Return a frame of silence."""
        return self._instance(np.zeros(self.params.frame, dtype=np.float32), *self._blank())

    def seeded(self, generator: np.random.Generator) -> Inputs:
        """Return eight frames of soft noise."""
        noise = 0.01 * generator.standard_normal(8 * self.params.frame)
        return self._instance(noise.astype(np.float32), *self._blank())

    def decode(self, request: Request) -> Decoded:
        """Decode files to whole frames, padded with silence; or the whole frames of a piece of a stream."""
        name = request.headers.get(STREAM, "").strip()
        if name:
            return self._piece(request, name)
        found, listed = recordings(request, self.params.limits, self.params.rate)
        padded = [np.pad(samples, (0, -len(samples) % self.params.frame)) for samples in found]
        return Decoded(
            [self._instance(samples, *self._blank()) for samples in padded], [*map(len, found)], listed
        )

    # -- streams --------------------------------------------------------------------------------

    def _piece(self, request: Request, name: str) -> Decoded:
        if len(name) > _LONGEST_ID:
            raise Refused(f"{STREAM}: {len(name)} characters, at most {_LONGEST_ID}")
        piece = object()
        if self._in_batch.setdefault(name, piece) is not piece:  # atomic, because decoders may be threads
            raise Refused(
                f"{STREAM}: another piece of this stream is being answered; send one after the other",
                HTTPStatus.CONFLICT,
            )
        samples = self._samples(request)
        stream = None if _said(request, START) else self._streams.get(name)
        if stream is None or time.monotonic() - stream.used > self.params.idle:
            context, state = self._blank()
            stream = Stream(Segments(self.params), state, context, context[:0])
        joined, last = np.concatenate([stream.rest, samples]), _said(request, END)
        if last:
            joined = np.pad(joined, (0, -len(joined) % self.params.frame))
        whole = len(joined) // self.params.frame * self.params.frame
        about = _Piece(name, stream, joined[whole:], stream.samples + len(samples), last)
        return Decoded([self._instance(joined[:whole], stream.context, stream.state)], [about])

    def _samples(self, request: Request) -> Samples:
        """Return a piece's samples; the last piece may be empty. Raises Refused."""
        forms = f"send 16-bit PCM, one channel, {self.params.rate} samples a second, as the raw body"
        raw = bytearray() if not request and _said(request, END) else value_of(request, "sound", forms)
        if not isinstance(raw, bytes | bytearray) or len(raw) % 2:
            found = f"{len(raw)} bytes" if isinstance(raw, bytes | bytearray) else f"a {type(raw).__name__}"
            raise Refused(f"no piece of a stream: found {found}; {forms}")
        limits = self.params.limits
        most = min(limits.max_bytes, int(2 * limits.max_seconds * self.params.rate))
        if len(raw) > most:
            raise Refused(
                f"{len(raw):,} bytes in one piece, at most {most:,} are allowed",
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            )
        if raw[:4] == b"RIFF":
            raise Refused(f"no piece of a stream: found a WAV file, which is whole; {forms}")
        return (np.frombuffer(bytes(raw), "<i2") / 32768).astype(np.float32)

    def _answered(self, piece: _Piece, output: Outputs) -> dict[str, Any]:
        """Return a piece's answer, and only now update the stream."""
        stream = piece.stream
        speech = stream.segments.add(output["probabilities"])
        # Copies: a view would keep the whole piece or batch alive.
        stream.state, stream.context = output["state"].copy(), output["context"].copy()
        stream.rest = piece.rest.copy()
        stream.samples, stream.used = piece.samples, time.monotonic()
        if piece.last:
            speech += stream.segments.last(stream.samples)
            self._streams.pop(piece.name, None)
        else:
            self._streams[piece.name] = stream
            self._streams.move_to_end(piece.name)
            self._forget()
        begun = stream.segments.begun
        return {
            "seconds": round(stream.samples / self.params.rate, 3),
            "speaking": begun is not None,
            "since": None if begun is None else round(begun / self.params.rate, 3),
            "speech": speech,
        }

    def _forget(self) -> None:
        """Drop surplus and idle streams, which are ordered by their last use."""
        oldest = time.monotonic() - self.params.idle
        while self._streams:
            name, stream = next(iter(self._streams.items()))
            if len(self._streams) <= self.params.max_streams and stream.used >= oldest:
                return
            del self._streams[name]

    # -- the model ------------------------------------------------------------------------------

    def prepare(self, batch: Inputs) -> Inputs:
        """Return Silero's inputs: its state has the batch axis in the middle, and there is a rate."""
        return {
            "input": batch["samples"],
            "state": batch["state"].transpose(1, 0, 2),
            "sr": np.array(self.params.rate, dtype=np.int64),
        }

    def infer(self, batch: Inputs) -> Outputs:
        """Return probabilities (n, frames), frame by frame, and the last state and context."""
        size, context, state = self.params.frame, batch["context"], batch["state"]
        frames = batch["samples"].reshape(len(state), batch["samples"].shape[1] // size, size)
        found = np.zeros(frames.shape[:2], dtype=np.float32)
        for place in range(frames.shape[1]):
            samples = np.concatenate([context, frames[:, place]], axis=1)
            probability, state = _answers(self.model({"samples": samples, "state": state}))
            found[:, place] = probability[:, 0]
            context = samples[:, -self.params.context :]
        return {"probabilities": found, "state": state, "context": context}

    def warm_up(self) -> None:
        """Infer a frame, and check the outputs."""
        batch = self.collate([self.example()])
        samples = np.concatenate([batch["context"], batch["samples"]], axis=1)
        self.examine(self.model({"samples": samples, "state": batch["state"]}), squashed=True)

    def examine(self, outputs: Outputs, *, squashed: bool) -> Sequence[str]:
        """Check the outputs' shapes and range."""
        shapes = [list(array.shape) for array in outputs.values()]
        # Silero's state has the batch axis in the middle, and a build joins those of several calls.
        if len(shapes) != 2 or shapes[0][1:] != [1] or len(shapes[1]) != 3 or shapes[1][2] != _WIDTH[1]:
            raise ValueError(f"expected a probability (n, 1) and a state (n, 2, 128), found {shapes}")
        probability = next(iter(outputs.values()))
        if not ((probability >= 0) & (probability <= 1)).all():
            raise ValueError("end the module in a sigmoid: the probabilities are not between 0 and 1")
        return ()

    def encode(self, output: Outputs, about: _Piece | int | None) -> dict[str, Any]:
        """Return the speech in a file of `about` samples, or a stream's answer to a piece. Raises Refused."""
        if not np.isfinite(output["probabilities"]).all():
            reason = "for this sound the model gives NaN or infinity"
            raise Refused(reason, HTTPStatus.INTERNAL_SERVER_ERROR)
        if isinstance(about, _Piece):
            return self._answered(about, output)
        samples = output["probabilities"].size * self.params.frame if about is None else about
        segments = Segments(self.params)
        speech = segments.add(output["probabilities"]) + segments.last(samples)
        return {"seconds": round(samples / self.params.rate, 3), "speech": speech}

    def compare(self) -> Mapping[str, Any]:
        """Compare speech within 50 ms; a frame is 32 ms."""
        return {"kind": "close", "tolerance": 0.05}

    def about(self) -> dict[str, Any]:
        """Return what callers may send, and a stream's form."""
        params = self.params
        return {
            "accepts": ["audio/wav"],
            "rate": params.rate,
            "streams": {"header": STREAM, "format": "s16le", "channels": 1, "max": params.max_streams},
            "limits": asdict(params.limits),
        }


def _said(request: Request, header: str) -> bool:
    return request.headers.get(header, "").strip().lower() in {"true", "1"}


def _answers(outputs: Outputs) -> tuple[Array, Array]:
    """Return the probability (n, 1) and the next state (n, 2, 128); Silero's state is (2, n, 128)."""
    [probability, state] = outputs.values()
    return probability, state.transpose(1, 0, 2) if "stateN" in outputs else state
