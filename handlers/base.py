"""The batch contract: decode each request, infer the good ones together, answer every one.

TorchServe hands a handler a batch of requests and fails them all when one raises. Here an error while
decoding belongs to its request alone: it gets its own status and a JSON reason, and the others their answers.
"""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cpus import threads_for
from .process import settle
from .receive import read_in_pieces
from .record import RecordConfig, Recorder

logger = logging.getLogger(__name__)

Array = NDArray[Any]

MIN_ROWS_AT_ONCE = 16


class Refused(Exception):
    """This request cannot be answered, and why; `status` is its HTTP status (4xx or 501)."""

    def __init__(self, reason: str, status: int = HTTPStatus.BAD_REQUEST) -> None:
        self.reason = reason
        self.status = int(status)
        super().__init__(reason)


@dataclass(frozen=True)
class Decoded:
    """What one request asks for.

    `inputs` has shape (n, …): one row for each instance, n ≥ 1. `listed` tells whether the caller sent a
    list of instances and so expects `{"predictions": […]}` back, or one input and expects one answer.
    """

    inputs: Array
    listed: bool = False


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
        self._about = {"handler": dict(config), "model": context.manifest["model"]}
        self._recorder: Recorder | None = None
        if config.get("record") is not None:
            version = str(context.manifest["model"].get("modelVersion", ""))
            self._recorder = Recorder(RecordConfig.of(config["record"]), context.model_name, version)
        self.setup(config, model_dir, properties.get("gpu_id"))
        self.infer(self.example())

    def handle(self, data: Sequence[Mapping[str, Any]], context: Any) -> list[Any]:
        """Answers a batch: always as many answers as requests, in their order."""
        answers: list[Any] = [None] * len(data)
        decoded: dict[int, Decoded] = {}
        for index, found in enumerate(self._decode_each(data, context)):
            if self._recorder is not None and found is not None:
                self._recorder.keep(data[index], _content_type(context, index))
            if isinstance(found, Decoded):
                decoded[index] = found
            elif found is None:
                answers[index] = _answer(context, index, self._about)
            elif isinstance(found, Refused):
                answers[index] = _answer(context, index, {"error": found.reason}, found.status)
            else:
                logger.error("decoding request %s failed", context.get_request_id(index), exc_info=found)
                answers[index] = _failed(context, index, "the input could not be decoded")
        for index, answer in self._infer_together(decoded, context).items():
            answers[index] = answer
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
                return self.decode(data[index])
            except MemoryError:
                raise  # TorchServe answers it with 507
            except Exception as error:
                return error

        indexes = range(len(data))
        if self._decoders is None or len(data) == 1:
            return map(decode, indexes)
        return self._decoders.map(decode, indexes)

    def _infer_together(self, decoded: Mapping[int, Decoded], context: Any) -> dict[int, Any]:
        """One forward pass over all instances of all requests, and back to an answer for each request."""
        if not decoded:
            return {}
        try:
            batch = _joined([item.inputs for item in decoded.values()])
            # As many rows as a full batch of single inputs: several requests with many instances each would
            # otherwise need many times the memory.
            rows_at_once = max(self._batch_size, MIN_ROWS_AT_ONCE)
            parts = [self.infer(batch[i : i + rows_at_once]) for i in range(0, len(batch), rows_at_once)]
            outputs = _joined(parts)
            if len(outputs) != len(batch):
                raise ValueError(f"{len(batch)} inputs, {len(outputs)} outputs")
        except MemoryError:
            raise  # as above
        except Exception as error:
            if "CUDA" in str(error):
                raise  # likewise
            logger.exception("inference failed for a batch of %d", len(decoded))
            return {index: _failed(context, index, "inference failed") for index in decoded}
        answers: dict[int, Any] = {}
        start = 0
        for index, item in decoded.items():
            own = outputs[start : start + len(item.inputs)]
            start += len(item.inputs)
            try:
                rows = [self.encode(row) for row in own]
                answers[index] = _answer(context, index, {"predictions": rows} if item.listed else rows[0])
            except MemoryError:
                raise
            except Exception:
                logger.exception("encoding the answer to %s failed", context.get_request_id(index))
                answers[index] = _failed(context, index, "the output could not be encoded")
        return answers


def _joined(arrays: list[Array]) -> Array:
    """One array of all rows; of a single one no copy."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _content_type(context: Any, index: int) -> str:
    """As the client wrote it, under whichever spelling of the header; "" where it sent none."""
    headers = context.get_all_request_header(index)
    return next((str(value) for name, value in headers.items() if name.lower() == "content-type"), "")


def _answer(context: Any, index: int, content: Any, status: int = HTTPStatus.OK) -> str:
    context.set_response_content_type(index, "application/json")
    context.set_response_status(int(status), HTTPStatus(status).phrase, index)
    return json.dumps(content, allow_nan=False)  # a bare NaN is no JSON: callers could not parse it


def _failed(context: Any, index: int, what: str) -> str:
    """The caller is told what to quote, and not what the traceback says."""
    request_id = context.get_request_id(index)
    reason = {"error": f"{what}; the reason is in the server's model_log.log", "request_id": request_id}
    return _answer(context, index, reason, HTTPStatus.INTERNAL_SERVER_ERROR)
