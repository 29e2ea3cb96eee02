"""What model.yaml says, as types. pydantic is known in this room, and in params.py."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic.dataclasses import dataclass

# Extra keys are errors: a misspelt key that is ignored is a setting that silently does nothing.
_STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)
_CAMEL = ConfigDict(extra="forbid", use_attribute_docstrings=True, alias_generator=to_camel)

Runtime = Literal["onnx", "aoti", "eager"]
# Strict: `batchSize: yes` is no number, though Python counts with it.
Positive = Annotated[int, Field(ge=1, strict=True)]
# What Java reads as an Integer; it warns in its log of a larger one, and takes its default.
JavaPositive = Annotated[int, Field(ge=1, lt=2**31, strict=True)]


@dataclass(frozen=True, config=_STRICT)
class Accept:
    """What the artifact must keep of the module it came from; the archive is not built otherwise."""

    agreement: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Least share of inputs that are answered as the module answers them, as the handler compares answers."""
    max_abs_error: Annotated[float, Field(ge=0)] = 0.001
    """Largest difference of any output, relative to the largest output of the module if that exceeds 1."""


@dataclass(frozen=True, config=_CAMEL)
class Serving:
    """TorchServe's model-config.yaml, with its names."""

    min_workers: JavaPositive = 1
    """Workers started at registration. It wins over `initial_workers` of the register call."""
    max_workers: JavaPositive | None = None
    """How many it will be scaled to; the default is minWorkers. TorchServe never scales by itself, but the
    machine's processors are divided by this number, and above 1 the workers share the weights' memory."""
    threads: JavaPositive | Literal["auto"] = "auto"
    """Threads that one worker computes with. auto: the processors that the container grants, divided by
    maxWorkers."""
    batch_size: JavaPositive = 1
    """Requests that a worker takes at once, at most."""
    max_batch_delay: JavaPositive = 5
    """Milliseconds to wait for a batch to fill; only with batchSize above 1."""
    response_timeout: JavaPositive = 30
    """Seconds without a reply after which TorchServe kills the worker and fails its batch."""
    startup_timeout: JavaPositive = 120
    """Seconds that loading may take."""
    max_retry_timeout_in_sec: Annotated[int, Field(ge=0, lt=2**31, strict=True)] = 60
    """Seconds during which a worker that dies is started again. TorchServe's 300 hide a broken model."""
    job_queue_size: JavaPositive = 300
    """Requests that may wait; the next one gets 503."""
    device_type: Literal["cpu", "gpu"] | None = None
    """Where the model runs; the default is a GPU where there is one."""


@dataclass(frozen=True, config=_STRICT)
class Record:
    """Requests that workers keep, to be replayed to a later version. Off without this section."""

    folder: str
    """An absolute path on the serving machine. Workers record while it exists, and do not make it."""
    share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of requests to keep, drawn by chance."""
    max_bytes_each: Positive = 1_000_000
    """A request with a larger body is not kept."""
    max_bytes_total: Positive = 100_000_000
    """Bytes of all files of a version together, at which recording stops."""
    fields: list[str] | None = None
    """Of a JSON object only these top-level fields are kept; the default is all."""


@dataclass(frozen=True, config=_STRICT)
class ModelSpec:
    """All there is to say of a model."""

    name: str
    """The model's name in TorchServe: letters, digits, `_`, `-`, `.`; not beginning with `token`."""
    version: str
    """In quotes: 1.10 without them is the number 1.1."""
    handler: str
    """Who answers: one of torchmar's handlers; `mine.py` or `mine.py:Mine`, a file beside this one with a
    BatchHandler, a class on TorchServe's BaseHandler, or a function `handle`; or one of TorchServe's own, as
    `torchserve:image_classifier`."""
    params: dict[str, Any] = field(default_factory=dict)
    """The handler's parameters. Each of torchmar's handlers, and each BatchHandler, says which it has; those
    of any other handler are the section `handler` of its model-config.yaml."""
    source: str | dict[str, str] | None = None
    """`file:function`, a Python file beside this one and a function in it, which returns the module. It is
    called with `pretrained=True` for the module with its weights and with `pretrained=False` for the same
    without; a function without that parameter is called without it. Several parts have a name each:
    `{encoder: load:encoder, decoder: load:decoder}`."""
    artifact: str | dict[str, str] | None = None
    """A file beside this one that exists already. Without `source` it is served as it is: .onnx, TorchScript,
    a program of torch.export, a package of AOTInductor. With `source` it is the state dict of its module. For
    a handler of TorchServe's kind it is the file that its manifest calls serializedFile."""
    runtime: Runtime | None = None
    """What `source` is exported to; the default is onnx. onnx: ONNX Runtime, no torch while serving. aoti:
    AOTInductor. eager: the module itself."""
    accept: Accept = Accept()
    serving: Serving = Serving()
    record: Record | None = None
    golden: str | None = None
    """A folder beside this file with requests that the archive must answer as the module does."""
    compare: dict[str, Any] | None = None
    """How two answers are compared, `{kind: boxes, min_iou: 0.9}`; the default is the handler's own way, and
    that numbers may round otherwise for a handler of TorchServe's kind."""
    requirements: list[str] = field(default_factory=list)
    """What the archive's code imports besides its runtime, as pip requirements."""
    files: list[str] | None = None
    """What is packed besides: files or folders beside this one, also with `*`; they keep their folders. Where
    a model's own code is packed, the default is every file up to 1 MB but golden requests and hidden ones."""
    prepare: str | None = None
    """`file:function`, called with this file's folder before anything else: it fetches or makes what the
    folder lacks, as a vocabulary out of a package."""
    allow_pickle: bool = False
    """Whether `artifact` may be a whole pickled module. To load one is to run whatever it says."""
    torch_free: bool = False
    """Whether workers shall start without torch. Only for handlers of TorchServe's kind that never compute
    with it: those of torchmar do so with an .onnx anyway."""
    model_file: str | None = None
    """For a handler of TorchServe's kind: the Python file with the one class that `artifact` is the state
    dict of, as torch-model-archiver's --model-file."""
    config: dict[str, Any] = field(default_factory=dict)
    """What else model-config.yaml shall say to TorchServe, or to a handler of its kind."""
    description: str = ""

    @property
    def sources(self) -> dict[str, str]:
        """`source` by part; a single one is called `model`."""
        return _parts(self.source)

    @property
    def artifacts(self) -> dict[str, str]:
        """`artifact` by part; a single one is called `model`."""
        return _parts(self.artifact)

    @property
    def export_to(self) -> Runtime:
        """`runtime`, or its default."""
        return self.runtime or "onnx"


def _parts(found: str | dict[str, str] | None) -> dict[str, str]:
    if found is None:
        return {}
    return {"model": found} if isinstance(found, str) else found
