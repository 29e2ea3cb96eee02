"""The batch contract: decode each request, infer the good ones together, answer every one.

TorchServe hands a handler a batch of requests and fails them all when one raises. Here an error belongs to
its request alone, while decoding, inferring and encoding: it gets its own status and a JSON reason, and the
others get their answers.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .answers import answer, failure, refusal
from .cpus import threads_for
from .frontend import max_response_size
from .process import settle
from .receive import read_in_pieces
from .record import RecordConfig, Recorder

logger = logging.getLogger(__name__)

Array = NDArray[Any]

MIN_ROWS_AT_ONCE = 16


class Refused(Exception):
    """This request cannot be answered, and why; `status` is its HTTP status (4xx, 500 or 501).

    The caller is told the reason: its beginning, where it is long.
    """

    def __init__(self, reason: str, status: int = HTTPStatus.BAD_REQUEST) -> None:
        self.reason = str(reason)
        self.status = HTTPStatus(status)
        super().__init__(reason)


@dataclass(frozen=True)
class Decoded:
    """What one request asks for.

    `inputs` has shape (n, …): one row for each instance, n ≥ 1. `listed` tells whether the caller sent a
    list of instances and so expects `{"predictions": […]}` back, or one input and expects one answer.
    """

    inputs: Array
    listed: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.inputs, np.ndarray) or not self.inputs.ndim or not len(self.inputs):
            raise TypeError("a request must be decoded to an array with a row for each instance")


class BatchHandler(ABC):
    """What TorchServe's loader instantiates: subclass it once in a module and fill in the four steps."""

    @abstractmethod
    def setup(self, config: Mapping[str, Any], model_dir: Path, gpu_id: int | None) -> None:
        """Load what inference needs. `config` is the `handler` section of model-config.yaml."""

    @abstractmethod
    def example(self) -> Array:
        """A valid batch of one, for the warm-up: a model that cannot infer must not become READY."""

    @abstractmethod
    def decode(self, request: Mapping[str, Any]) -> Decoded:
        """One request, as TorchServe hands it over, to inputs. Raises Refused."""

    @abstractmethod
    def infer(self, batch: Array) -> Array:
        """One forward pass: (n, …) in, (n, …) out."""

    @abstractmethod
    def encode(self, output: Array) -> Any:
        """One row of `infer`'s output to what JSON can hold."""

    def about(self) -> dict[str, Any]:
        """What whoever may ask for predictions may know of the model, besides its name, version and task."""
        return {}

    def warm_up(self) -> None:
        """Called once after `setup`; whatever it raises keeps the worker from becoming READY."""
        self.infer(self.example())

    # -- what TorchServe calls -----------------------------------------------------------------

    def initialize(self, context: Any) -> None:
        """Called once in each worker, before it is READY; an exception here kills the worker."""
        settle()
        read_in_pieces()
        properties = context.system_properties
        model_dir = Path(properties["model_dir"])
        config = (context.model_yaml_config or {}).get("handler")
        if not isinstance(config, Mapping):
            raise ValueError(f"{model_dir}: model-config.yaml has no `handler` section; rebuild the archive")
        if not Path(__file__).resolve().is_relative_to(model_dir.resolve()):
            logger.warning(
                "handlers come from %s and not from the archive: is PYTHONPATH set for the server?", __file__
            )
        self._batch_size = int(properties.get("batch_size") or 1)
        threads = threads_for(config.get("threads", "auto"), int(config.get("workers", 1)))
        # Pillow, numpy and json let other threads run while they work on something large.
        self._decoders = ThreadPoolExecutor(threads) if min(threads, self._batch_size) > 1 else None
        self._max_response = max_response_size()
        # Half of what TorchServe waits for an answer: what failed together may be tried again by then.
        self._patience = float(context.model_yaml_config.get("responseTimeout", 30)) / 2
        self._identity = {
            key: value
            for key, value in context.manifest["model"].items()
            if key in {"modelName", "modelVersion"}
        }
        self._task = config.get("task")
        self._recorder: Recorder | None = None
        if config.get("record") is not None:
            version = str(context.manifest["model"].get("modelVersion", ""))
            self._recorder = Recorder(RecordConfig.of(config["record"]), context.model_name, version)
        self.setup(config, model_dir, properties.get("gpu_id"))
        self.warm_up()

    def handle(self, data: Sequence[Mapping[str, Any]], context: Any) -> list[Any]:
        """Answers a batch: always as many answers as requests, in their order."""
        until = time.monotonic() + self._patience
        answers: list[Any] = [None] * len(data)
        decoded: dict[int, Decoded] = {}
        for index, found in enumerate(self._decode_each(data, context)):
            if self._recorder is not None and found is not None:
                self._recorder.keep(data[index], _content_type(context, index))
            if isinstance(found, Decoded):
                decoded[index] = found
            elif found is None:
                answers[index] = self._encode(context, index, self._describe)
            else:
                answers[index] = _no_answer(context, index, found, "the input could not be decoded")
        for indexes in _alike(decoded):
            for index, rows in self._infer_together(indexes, decoded, context, until).items():
                if isinstance(rows, Exception):
                    answers[index] = _no_answer(context, index, rows, "inference failed")
                else:
                    encode = partial(self._encode_rows, rows, listed=decoded[index].listed)
                    answers[index] = self._encode(context, index, encode)
        self._keep_small(answers, context)
        return answers

    def _decode_each(
        self, data: Sequence[Mapping[str, Any]], context: Any
    ) -> Iterable[Decoded | Exception | None]:
        """What each request asks for, or why that is not known; None for one that asks about the model."""

        def decode(index: int) -> Decoded | Exception | None:
            if context.get_request_header(index, "describe") == "True":
                return None
            try:
                if context.get_request_header(index, "explain") == "True":
                    raise Refused("this model gives no explanations", HTTPStatus.NOT_IMPLEMENTED)
                decoded = self.decode(data[index])
                if not isinstance(decoded, Decoded):
                    raise TypeError(f"decode gave {type(decoded).__name__} and not Decoded")
                return decoded
            except MemoryError:
                raise  # TorchServe answers it with 507
            except Exception as error:
                return error

        indexes = range(len(data))
        if self._decoders is None or len(data) == 1:
            return map(decode, indexes)
        return self._decoders.map(decode, indexes)

    def _infer_together(
        self, indexes: Sequence[int], decoded: Mapping[int, Decoded], context: Any, until: float
    ) -> dict[int, list[Array] | Exception]:
        """The output rows of each request, or why it has none.

        Requests that fail together are tried again, each alone, as long as time is left for it.
        """
        try:
            rows = self._forward([decoded[index].inputs for index in indexes])
        except MemoryError:
            raise  # as above
        except Exception as error:
            if "CUDA" in str(error):
                raise  # likewise
            if len(indexes) == 1:
                return {indexes[0]: error}
            found: dict[int, list[Array] | Exception] = {}
            for index in indexes:
                late = time.monotonic() > until
                alone = {index: error} if late else self._infer_together([index], decoded, context, until)
                found.update(alone)
            return found
        return dict(zip(indexes, rows, strict=True))

    def _forward(self, inputs: Sequence[Array]) -> list[list[Array]]:
        """One forward pass over the instances of several requests; the output rows of each request."""
        batch = inputs[0] if len(inputs) == 1 else np.concatenate(inputs)
        # As many rows as a full batch of single inputs: several requests with many instances each would
        # otherwise need many times the memory.
        at_once = max(self._batch_size, MIN_ROWS_AT_ONCE)
        outputs: list[Array] = []
        for start in range(0, len(batch), at_once):
            part = batch[start : start + at_once]
            found = self.infer(part)
            if len(found) != len(part):
                raise ValueError(f"{len(part)} inputs, {len(found)} outputs")
            outputs.extend(found)
        rows = iter(outputs)
        return [[next(rows) for _ in own] for own in inputs]

    def _encode_rows(self, rows: Sequence[Array], *, listed: bool) -> Any:
        encoded = [self.encode(row) for row in rows]
        return {"predictions": encoded} if listed else encoded[0]

    def _describe(self) -> Any:
        return {"model": self._identity, "handler": {"task": self._task, **self.about()}}

    def _encode(self, context: Any, index: int, content: Callable[[], Any]) -> str:
        try:
            return answer(context, index, content())
        except MemoryError:
            raise
        except Exception as error:
            return _no_answer(context, index, error, "the output could not be encoded")

    def _keep_small(self, answers: list[str], context: Any) -> None:
        """Replace what the frontend would not take, the largest first.

        It ends the worker of an answer above its limit. A batch it reads again from the beginning with each
        piece that arrives: 13 MB take it seconds, and 30 MB longer than anybody waits.
        """
        most = self._max_response
        total = sum(map(len, answers))  # they are ASCII
        for index in sorted(range(len(answers)), key=lambda each: -len(answers[each])):
            length = len(answers[index])
            if length <= most and total <= 2 * most:
                return
            total -= length
            if length > most:
                what, remedy = f"the answer has {length:,} bytes", "send fewer instances in one request"
            else:
                what, remedy = "the answers of its batch are too long together", "send it again"
            reason = f"{what}: {remedy}, or raise max_response_size ({most:,}) in config.properties"
            answers[index] = refusal(context, index, reason, HTTPStatus.INTERNAL_SERVER_ERROR)


def _alike(decoded: Mapping[int, Decoded]) -> list[list[int]]:
    """The requests whose instances have one shape and type, and so can be one array."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, item in decoded.items():
        groups.setdefault((item.inputs.shape[1:], item.inputs.dtype), []).append(index)
    return list(groups.values())


def _content_type(context: Any, index: int) -> str:
    """As the client wrote it, under whichever spelling of the header; "" where it sent none."""
    headers = context.get_all_request_header(index)
    return next((str(value) for name, value in headers.items() if name.lower() == "content-type"), "")


def _no_answer(context: Any, index: int, error: Exception, what: str) -> str:
    if isinstance(error, Refused):
        return refusal(context, index, error.reason, error.status)
    return failure(context, index, what, error)
