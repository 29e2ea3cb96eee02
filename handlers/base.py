"""Handle a batch: decode each request, infer the good ones together, answer every one.

A task is one file:

    @dataclass(frozen=True)
    class Params:                                   # the section `params` of model.yaml
        threshold: float = 0.5

    class Handler(BatchHandler[Params]):
        def example(self): ...                      # one valid instance
        def decode(self, request): ...              # a request's instances
        def encode(self, output, about): ...        # one instance's answer

TorchServe gives a handler a batch of requests and fails them all when one raises. Here an error affects only
its own request, which gets a status and a JSON reason; the others get their answers.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from .params import build_params
from .requests import Request
from .worker.answers import Content, Refused, answer, no_answer, refusal
from .worker.cpus import threads_for
from .worker.frontend import max_response_size
from .worker.process import configure_process
from .worker.receive import patch_socket_reader
from .worker.record import RecordConfig, Recorder
from .worker.stream import send_parts

__all__ = ["Array", "BatchHandler", "Content", "Decoded", "Inputs", "Model", "Outputs", "Refused", "Request"]

logger = logging.getLogger(__name__)

P = TypeVar("P")
Array = NDArray[Any]
Inputs = Mapping[str, Array]
"""Named arrays: of one instance without a batch axis, or of a batch with it first."""
Outputs = Mapping[str, Array]
"""The same for outputs; the names are the module's, or else output, or output_0, output_1, …"""

MIN_ROWS_AT_ONCE = 16


class Model(Protocol):
    """Computes: a runtime of runtimes.py, or the module itself while an archive is built."""

    def __call__(self, inputs: Inputs) -> Outputs:
        """Run one forward pass over a batch."""
        ...


@dataclass(frozen=True)
class Decoded:
    """The content of one request.

    `instances` has at least one entry. `about` holds, for each of them, what else `encode` needs, such as the
    picture's size. `listed` says whether the caller sent a list and so expects `{"predictions": […]}`.
    """

    instances: Sequence[Inputs]
    about: Sequence[Any] = ()
    listed: bool = False

    def __post_init__(self) -> None:
        if not self.instances or len(self.about) not in {0, len(self.instances)}:
            raise TypeError("a request must be decoded to at least one instance, `about` be empty or as long")


@dataclass(frozen=True)
class _Item:
    """One instance of one request."""

    request: int
    inputs: Inputs
    about: Any


class BatchHandler(ABC, Generic[P]):
    """The class that TorchServe's loader instantiates: subclass it once in a module.

    `params`, `files` (the folder with the files that model.yaml names) and `models` are set before `setup`.
    """

    params: P
    files: Path
    models: Mapping[str, Model]
    """The parts in model.yaml's `source` or `artifact`; a single one is called `model`."""

    dynamic: ClassVar[Mapping[str, Mapping[int, str]]] = {}
    """Axes of a batch's inputs that vary besides the first: {"ids": {1: "tokens"}}."""
    output_names: ClassVar[Sequence[str]] = ()
    """Names for a model's outputs, in its order, if it gives none or others."""
    requirements: ClassVar[Sequence[str]] = ()
    """What an instance with `params` imports besides the standard library, numpy, Pillow and its runtime, as
    pip requirements."""
    stream_type: ClassVar[str] = "text/plain; charset=utf-8"
    """The content type of `stream`'s parts."""
    batched: ClassVar[bool] = True
    """False if the model takes one instance at a time: each then gets its own forward pass."""

    # -- a task fills these in ------------------------------------------------------------------

    def setup(self) -> None:
        """Load what decoding and encoding need: labels, a tokenizer."""

    @abstractmethod
    def example(self) -> Inputs:
        """Return one valid instance, for warm-up, export and the parity check."""

    def seeded(self, generator: np.random.Generator) -> Inputs:
        """Return another valid instance at random, for export and the parity check.

        Draws bytes evenly, and numbers with a fraction near the example's; other integers may be indexes and
        stay as they are.
        """
        return {name: _drawn(array, generator) for name, array in self.example().items()}

    @abstractmethod
    def decode(self, request: Request) -> Decoded:
        """Return the instances of one request. Raises Refused."""

    def collate(self, instances: Sequence[Inputs]) -> Inputs:
        """Return a batch of instances; unless overridden, only instances of one shape and dtype come here."""
        if len(instances) == 1:
            return {name: array[None] for name, array in instances[0].items()}
        return {name: np.stack([one[name] for one in instances]) for name in instances[0]}

    @property
    def model(self) -> Model:
        """Return the only part of the model."""
        [model] = self.models.values()
        return model

    def infer(self, batch: Inputs) -> Outputs:
        """Run one forward pass; override it if an answer takes several."""
        return self.model(batch)

    def split(self, outputs: Outputs, count: int) -> Sequence[Outputs]:
        """Return the outputs of a batch of `count` instances, one by one."""
        for name, array in outputs.items():
            if len(array) != count:
                raise ValueError(f"{count} instances, {len(array)} rows of {name}")
        return [{name: array[row] for name, array in outputs.items()} for row in range(count)]

    @abstractmethod
    def encode(self, output: Outputs, about: Any) -> Any:
        """Return the answer for one instance's outputs: anything that JSON can hold, or Content.

        Raises Refused.
        """

    def streams(self, about: Any) -> bool:
        """Return whether `stream` answers an instance that came alone, in parts."""
        return False

    def stream(self, inputs: Inputs, about: Any) -> Iterator[str | bytes]:
        """Yield the parts of an answer, each sent at once; joined they are the answer."""
        raise NotImplementedError

    def compare(self) -> Mapping[str, Any]:
        """Return how a release compares two answers: a comparator's `kind` and its options.

        close: JSON that is equal up to rounding. exact. first (by): the first row. boxes (min_iou, score,
        min_score). mask (min_iou, min_share). cosine (min). text (max_edits). fields (fields): one for each
        key.
        """
        return {"kind": "close"}

    def about(self) -> dict[str, Any]:
        """Return what callers may know about the model, besides its name, version and task."""
        return {}

    def statistics(self, inputs: Inputs) -> Mapping[str, float]:
        """Return figures of one decoded instance, by which drift of the requests is seen.

        Unless overridden: the mean and the deviation of each array of bytes or fractions (of a picture its
        brightness and contrast), and the length of each axis in `dynamic`. Other integers may be indexes,
        whose mean says nothing.
        """
        return dict(_figures(self.dynamic, inputs))

    def warm_up(self) -> None:
        """Infer the example; an exception here keeps the worker from becoming READY."""
        self.split(self.infer(self.collate([self.example()])), 1)

    # -- while an archive is built; `params` is set, `setup` may not have run ---------------------

    def prepare(self, batch: Inputs) -> Inputs:
        """Compute what comes between `collate` and an ONNX model that was given as a file."""
        return batch

    def graph_prefix(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Do the same with torch tensors: it becomes the first part of an exported graph."""
        return batch

    def graph_suffix(self, output: Any, count: int) -> Any:
        """Return what to keep of the module's output for `count` instances.

        It becomes the last part of an exported graph.
        """
        return output

    def counted(self, batch: Inputs, outputs: Outputs) -> Outputs:
        """Return what answers use of a batch's outputs; an artifact may differ in the rest.

        Set padding to zero.
        """
        return outputs

    def target(self, label: Any, output: Outputs) -> Outputs | None:
        """Return what `infer` should have given for an instance with this label, in the form of `output`.

        `label` is a text, a number, or what else a table holds. None means that labels cannot be told in
        outputs. Raises ValueError for a label that no instance can have.
        """
        return None

    def examine(self, outputs: Outputs, *, squashed: bool) -> Sequence[str]:
        """Check a batch's outputs against `params`; returns notes for whoever builds the archive.

        `squashed` says that the module ends with a sigmoid or a softmax. Raises ValueError with what to write
        into model.yaml.
        """
        return ()

    # -- what TorchServe calls -----------------------------------------------------------------

    @classmethod
    def params_type(cls) -> type[Any]:
        """Return the dataclass in `BatchHandler[…]`. Raises TypeError if the class names none."""
        for base in cls.__mro__:
            for generic in vars(base).get("__orig_bases__", ()):
                origin = getattr(generic, "__origin__", None)
                if isinstance(origin, type) and issubclass(origin, BatchHandler):
                    [kind] = get_args(generic)
                    if isinstance(kind, type):
                        return kind
        raise TypeError(f"{cls.__name__}: write class {cls.__name__}(BatchHandler[Params])")

    def open(
        self,
        params: P,
        files: Path,
        models: Mapping[str, Model],
        *,
        batch_size: int = 1,
        threads: int = 1,
        patience: float = 15.0,
    ) -> None:
        """Make it ready to answer; `initialize` calls it, and so does a build.

        `patience` is how many seconds after the start failed requests may be retried alone.
        """
        self.params, self.files, self.models = params, files, models
        self._rows_at_once = max(batch_size, MIN_ROWS_AT_ONCE) if self.batched else 1
        # Pillow, numpy and json release Python's lock while they work on large data.
        self._decoders = ThreadPoolExecutor(threads) if min(threads, batch_size) > 1 else None
        self._patience = patience
        self._max_response = max_response_size()
        self._identity: dict[str, Any] = {}
        self._recorder: Recorder | None = None
        self.setup()

    def initialize(self, context: Any) -> None:
        """Initialise the worker before it is READY.

        TorchServe calls it once; an exception kills the worker.
        """
        configure_process()
        patch_socket_reader()
        from .runtimes import open_models

        properties = context.system_properties
        model_dir = Path(properties["model_dir"])
        config = (context.model_yaml_config or {}).get("handler")
        if not isinstance(config, Mapping) or "models" not in config:
            raise ValueError(f"{model_dir}: model-config.yaml has no `handler` section; rebuild the archive")
        if not Path(__file__).resolve().is_relative_to(model_dir.resolve()):
            logger.warning(
                "handlers come from %s and not from the archive: is PYTHONPATH set for the server?", __file__
            )
        # Opening `models` needs `params`: what is computed before and after them may depend on them.
        self.params = build_params(self.params_type(), config.get("params") or {})
        self.open(
            self.params,
            model_dir / "model_source",
            open_models(config, model_dir, properties.get("gpu_id"), self),
            batch_size=int(properties.get("batch_size") or 1),
            threads=threads_for(config.get("threads", "auto"), int(config.get("workers", 1))),
            # Half of TorchServe's response timeout: until then, failed requests are retried alone.
            patience=float(context.model_yaml_config.get("responseTimeout", 30)) / 2,
        )
        manifest = context.manifest["model"]
        named = {key: manifest[key] for key in ("modelName", "modelVersion") if key in manifest}
        self._identity = {"model": named, "handler": {"task": config.get("task")}}
        if config.get("record") is not None:
            version = str(manifest.get("modelVersion", ""))
            self._recorder = Recorder(RecordConfig.of(config["record"]), context.model_name, version)
        self.warm_up()

    def handle(self, data: Sequence[Mapping[str, Any]], context: Any) -> list[Any]:
        """Answer a batch: as many answers as requests, in their order."""
        until = time.monotonic() + self._patience
        answers: dict[int, str | bytes] = {}
        decoded: dict[int, Decoded] = {}
        for index, found in enumerate(self._decode_each(data, context)):
            if self._recorder is not None and found is not None:
                self._recorder.keep(data[index], _content_type(context, index))
            if isinstance(found, Decoded):
                decoded[index] = found
            elif found is None:
                answers[index] = self._described(context, index)
            else:
                answers[index] = no_answer(context, index, found, "the input could not be decoded")
        parts = self._in_parts(decoded)
        together = {index: request for index, request in decoded.items() if index not in parts}
        for index, encoded in self._infer_together(together, until).items():
            if isinstance(encoded, _Failed):
                answers[index] = no_answer(context, index, encoded.error, encoded.what)
            else:
                listed = decoded[index].listed
                content = {"predictions": encoded} if listed else encoded[0]
                answers[index] = self._encoded(context, index, content)
        self._keep_small(answers, context)
        if not parts:
            return [answers[index] for index in range(len(data))]
        for index in parts:
            context.set_response_content_type(index, self.stream_type)
        return send_parts(context, parts, len(data), answered=answers)

    def _in_parts(self, decoded: Mapping[int, Decoded]) -> dict[int, Iterator[str | bytes]]:
        """Return the parts of those requests that are answered in parts."""
        parts = {}
        for index, request in decoded.items():
            [(inputs, about), *more] = _instances(request)
            if not request.listed and not more and self.streams(about):
                parts[index] = self.stream(inputs, about)
        return parts

    def _decode_each(
        self, data: Sequence[Mapping[str, Any]], context: Any
    ) -> Iterator[Decoded | Exception | None]:
        """Yield each request's content, or the error; None for a request about the model."""

        def decode(index: int) -> Decoded | Exception | None:
            if context.get_request_header(index, "describe") == "True":
                return None
            try:
                if context.get_request_header(index, "explain") == "True":
                    raise Refused("this model gives no explanations", HTTPStatus.NOT_IMPLEMENTED)
                decoded = self.decode(Request(data[index], _headers(context, index)))
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

    def _infer_together(self, decoded: Mapping[int, Decoded], until: float) -> dict[int, list[Any] | _Failed]:
        """Return each request's answers, one for each instance, or its failure."""
        items = [_Item(index, *one) for index, request in decoded.items() for one in _instances(request)]
        rows: dict[int, list[Any]] = {index: [None] * len(decoded[index].instances) for index in decoded}
        places = [place for request in decoded.values() for place in range(len(request.instances))]
        failed: dict[int, _Failed] = {}
        for indexes in self.alike([item.inputs for item in items]):
            # Limit the rows: several requests with many instances each could need many times the memory.
            for start in range(0, len(indexes), self._rows_at_once):
                part = [
                    i for i in indexes[start : start + self._rows_at_once] if items[i].request not in failed
                ]
                for i, output in self._outputs({i: items[i] for i in part}, until):
                    request = items[i].request
                    if isinstance(output, Exception):
                        failed.setdefault(request, _Failed(output, "inference failed"))
                    elif request not in failed:
                        try:
                            rows[request][places[i]] = self.encode(output, items[i].about)
                        except MemoryError:
                            raise
                        except Exception as error:
                            failed[request] = _Failed(error, "the output could not be encoded")
        return {**rows, **failed}

    def alike(self, instances: Sequence[Inputs]) -> list[list[int]]:
        """Return which instances may share a batch, by index.

        The default `collate` takes instances of one shape and dtype; an overridden one takes all.
        """
        if type(self).collate is not BatchHandler.collate:
            return [[*range(len(instances))]] if instances else []
        groups: dict[Any, list[int]] = {}
        for index, one in enumerate(instances):
            kind = tuple((name, array.shape, array.dtype) for name, array in one.items())
            groups.setdefault(kind, []).append(index)
        return list(groups.values())

    def _outputs(self, items: Mapping[int, _Item], until: float) -> Iterator[tuple[int, Outputs | Exception]]:
        """Run one forward pass; if it fails, run each instance alone while time is left."""
        if not items:
            return
        try:
            batch = self.collate([item.inputs for item in items.values()])
            found = self.split(self.infer(batch), len(items))
            if len(found) != len(items):
                raise ValueError(f"{len(items)} instances, {len(found)} outputs")
        except MemoryError:
            raise  # as above
        except Exception as error:
            if "CUDA" in str(error):
                raise  # TorchServe answers this with 507 too
            alone = len(items) > 1 and time.monotonic() < until
            for index, item in items.items():
                if alone and time.monotonic() < until:
                    yield from self._outputs({index: item}, until)
                else:
                    yield index, error
        else:
            yield from zip(items, found, strict=True)

    def _described(self, context: Any, index: int) -> str | bytes:
        try:
            handler = {**self._identity.get("handler", {}), **self.about()}
        except Exception as error:
            return no_answer(context, index, error, "the output could not be encoded")
        return self._encoded(context, index, {**self._identity, "handler": handler})

    def _encoded(self, context: Any, index: int, content: Any) -> str | bytes:
        try:
            return answer(context, index, content)
        except MemoryError:
            raise
        except Exception as error:
            return no_answer(context, index, error, "the output could not be encoded")

    def _keep_small(self, answers: dict[int, str | bytes], context: Any) -> None:
        """Replace answers that the frontend would not take, the largest first.

        It kills the worker of an answer above its limit. It also parses a batch again from the start with
        each piece that arrives: 13 MB take it seconds, and 30 MB longer than any timeout.
        """
        most = self._max_response
        total = sum(map(len, answers.values()))  # text is ASCII
        for index in sorted(answers, key=lambda each: -len(answers[each])):
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


@dataclass(frozen=True)
class _Failed:
    """Why a request has no answer, and during which step."""

    error: Exception
    what: str


def _instances(request: Decoded) -> list[tuple[Inputs, Any]]:
    about = request.about or [None] * len(request.instances)
    return list(zip(request.instances, about, strict=True))


def _figures(dynamic: Mapping[str, Mapping[int, str]], inputs: Inputs) -> Iterator[tuple[str, float]]:
    for name, array in inputs.items():
        for axis, length in dynamic.get(name, {}).items():
            if array.ndim >= axis:  # an instance lacks the batch's first axis
                yield f"{name} {length}", float(array.shape[axis - 1])
        if array.dtype == np.uint8 or array.dtype.kind == "f":
            if array.size > 1:
                yield f"{name} mean", float(array.mean(dtype=np.float64))
                yield f"{name} deviation", float(array.std(dtype=np.float64))
            elif array.size:
                yield name, float(array.ravel()[0])


def _drawn(array: Array, generator: np.random.Generator) -> Array:
    if array.dtype == np.uint8:
        return generator.integers(0, 256, array.shape, dtype=np.uint8)
    if array.dtype.kind == "f":
        return (array + generator.standard_normal(array.shape)).astype(array.dtype)
    return array


def _headers(context: Any, index: int) -> dict[str, str]:
    """Return the headers as the client wrote them, with names in lower case."""
    return {name.lower(): str(value) for name, value in context.get_all_request_header(index).items()}


def _content_type(context: Any, index: int) -> str:
    """Return the content type as the client wrote it; "" if it sent none."""
    return _headers(context, index).get("content-type", "")
