"""Define the content of model.yaml as types. Only this module and params.py use pydantic."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic.dataclasses import dataclass

# Extra keys are errors: ignoring a misspelt key would silently drop a setting.
_STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)
_CAMEL = ConfigDict(extra="forbid", use_attribute_docstrings=True, alias_generator=to_camel)

Runtime = Literal["onnx", "aoti", "eager"]
# Strict, because Python would count `batchSize: yes` as 1.
Positive = Annotated[int, Field(ge=1, strict=True)]
# Java's Integer: for a larger number, TorchServe only logs a warning and takes its default.
JavaPositive = Annotated[int, Field(ge=1, lt=2**31, strict=True)]


@dataclass(frozen=True, config=_STRICT)
class Accept:
    """What the artifact must preserve of its module; otherwise the archive is not built."""

    agreement: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Smallest share of inputs with the module's answer, by the handler's comparison."""
    max_abs_error: Annotated[float, Field(ge=0)] = 0.001
    """Largest difference of any output, relative to the largest output of the module if that exceeds 1."""
    cost: Annotated[float, Field(ge=0)] | None = None
    """With `compress`: the largest mean distance of the outputs from the uncompressed model's, which is
    the sum of their absolute differences. The default is no limit."""
    metric_drop: Annotated[float, Field(ge=0)] | None = None
    """With `compress` and labelled data: how much of the task's metric may be lost at most, in its own unit,
    such as 0.01 of accuracy or of RMSE. The default is no limit."""


@dataclass(frozen=True, config=_STRICT)
class Compress:
    """A smaller artifact in the place of the exported one, for ONNX alone. What it costs is measured."""

    data: str
    """A folder or table of requests beside this file: a folder for each label, .csv, .jsonl or .parquet. The
    cost is measured on them, and `int8` takes its ranges from some of them. Labels are optional."""
    quantize: Literal["int8", "dynamic", "weights", "fp16"] | None = None
    """int8: weights and activations, with ranges from `data`. dynamic: int8 weights, activations quantised as
    they come. weights: the weights of matrix products alone, in `bits`. fp16: half precision."""
    calibration: Literal["minmax", "entropy", "percentile"] | None = None
    """With `int8`: how the range of an activation is chosen; the default is minmax."""
    calibration_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """With `int8`: the share of `data` that ranges are taken from; the cost is measured on the rest. The
    default is 0.2."""
    bits: Literal[8, 4] | None = None
    """With `weights`: the bits of a weight; the default is 8."""
    prune: Annotated[float, Field(gt=0, lt=0.95)] | None = None
    """The share of multiply-adds to remove before anything is quantised: whole channels, with the smallest
    weights first, in four steps with training after each."""
    train: str | None = None
    """With `prune`: a folder or table of labelled requests to train on, of the same form as `data`."""
    epochs: Positive | None = None
    """With `prune`: how often to train on them after each step; the default is 5."""
    augment: str | None = None
    """With `prune`: what changes the examples at random each time they are trained on. For pictures some of
    flip, rotate=DEGREES, shift=SHARE, crop=SHARE, color=SHARE and noise=SIGMA, separated by commas; or a
    function of a file beside this one, as file:function."""


@dataclass(frozen=True, config=_CAMEL)
class Serving:
    """TorchServe's model-config.yaml, with its names."""

    min_workers: JavaPositive = 1
    """Workers started at registration. It wins over `initial_workers` of the register call."""
    max_workers: JavaPositive | None = None
    """The most workers you will scale to; the default is minWorkers. TorchServe never scales by itself, but
    the machine's processors are divided by this number, and above 1 the workers share the weights' memory."""
    threads: JavaPositive | Literal["auto"] = "auto"
    """Threads of one worker's computation. auto: the processors of the container, divided by maxWorkers."""
    batch_size: JavaPositive = 1
    """The most requests that a worker takes at once."""
    max_batch_delay: JavaPositive = 5
    """Milliseconds to wait for a batch to fill; only with batchSize above 1."""
    response_timeout: JavaPositive = 30
    """Seconds without a reply after which TorchServe kills the worker and fails its batch."""
    startup_timeout: JavaPositive = 120
    """The most seconds for loading."""
    max_retry_timeout_in_sec: Annotated[int, Field(ge=0, lt=2**31, strict=True)] = 60
    """Seconds during which TorchServe restarts a worker that dies. Its default of 300 hides a broken
    model."""
    job_queue_size: JavaPositive = 300
    """The most requests in the queue; the next one gets 503."""
    device_type: Literal["cpu", "gpu"] | None = None
    """Where the model runs; the default is a GPU if there is one."""


@dataclass(frozen=True, config=_STRICT)
class Record:
    """Requests that workers keep for a replay to a later version. Off without this section."""

    folder: str
    """An absolute path on the serving machine. Workers record while it exists; they do not make it."""
    share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of requests to keep, drawn at random."""
    max_bytes_each: Positive = 1_000_000
    """Workers do not keep a request with a larger body."""
    max_bytes_total: Positive = 100_000_000
    """Total size in bytes of a version's files at which recording stops."""
    fields: list[str] | None = None
    """The only top-level fields to keep of a JSON object; the default is all."""


@dataclass(frozen=True, config=_STRICT)
class ModelSpec:
    """Everything about a model."""

    name: str
    """The model's name in TorchServe: letters, digits, `_`, `-`, `.`; not beginning with `token`."""
    version: str
    """The model's version, in quotes: 1.10 without them is the number 1.1."""
    handler: str
    """The handler: one of torchmar's; `mine.py` or `mine.py:Mine`, a file beside this one with a
    BatchHandler, a class derived from TorchServe's BaseHandler, or a function `handle`; or one of
    TorchServe's own, as `torchserve:image_classifier`."""
    params: dict[str, Any] = field(default_factory=dict)
    """The handler's parameters. Each of torchmar's handlers, and each BatchHandler, declares its own; for any
    other handler they become the section `handler` of its model-config.yaml."""
    source: str | dict[str, str] | None = None
    """`file:function`, a Python file beside this one and a function in it that returns the module. It is
    called with `pretrained=True` for the module with its weights and with `pretrained=False` for the same
    without; a function without that parameter is called without it. Several parts have a name each:
    `{encoder: load:encoder, decoder: load:decoder}`."""
    artifact: str | dict[str, str] | None = None
    """An existing file beside this one. Without `source` it is served as it is: .onnx, TorchScript, a program
    of torch.export, a package of AOTInductor. With `source` it is the state dict of its module. For a handler
    of TorchServe's kind it is the manifest's serializedFile."""
    runtime: Runtime | None = None
    """The export format of `source`; the default is onnx. onnx: ONNX Runtime, no torch while serving. aoti:
    AOTInductor. eager: the module itself."""
    accept: Accept = Accept()
    compress: Compress | None = None
    serving: Serving = Serving()
    record: Record | None = None
    golden: str | None = None
    """A folder beside this file with requests that the archive must answer as the module does."""
    reference: str | None = None
    """A folder or table of requests beside this file, as the model was made for: the archive carries what
    they, and its answers to them, are like, for `torchmar drift`. Labels are optional."""
    compare: dict[str, Any] | None = None
    """How to compare two answers, as `{kind: boxes, min_iou: 0.9}`; the default is the handler's own way, or
    for a handler of TorchServe's kind equality up to rounding."""
    requirements: list[str] = field(default_factory=list)
    """The packages that the archive's code imports besides its runtime, as pip requirements."""
    files: list[str] | None = None
    """More files to pack: files or folders beside this one, also with `*`; they keep their folders. If a
    model's own code is packed, the default is every file up to 1 MB except golden requests and hidden
    files."""
    prepare: str | None = None
    """`file:function`, called with this file's folder before anything else: it fetches or makes what the
    folder lacks, as a vocabulary out of a package."""
    allow_pickle: bool = False
    """Whether `artifact` may be a whole pickled module. Loading one runs any code in it."""
    torch_free: bool = False
    """Whether workers start without torch. Only for handlers of TorchServe's kind that never compute with it;
    torchmar's handlers with an .onnx always do."""
    model_file: str | None = None
    """For a handler of TorchServe's kind: the Python file with the one class of `artifact`'s state dict, like
    torch-model-archiver's --model-file."""
    config: dict[str, Any] = field(default_factory=dict)
    """Further settings of model-config.yaml for TorchServe, or for a handler of its kind."""
    description: str = ""

    @property
    def sources(self) -> dict[str, str]:
        """Return `source` by part; a single one is called `model`."""
        return _parts(self.source)

    @property
    def artifacts(self) -> dict[str, str]:
        """Return `artifact` by part; a single one is called `model`."""
        return _parts(self.artifact)

    @property
    def export_to(self) -> Runtime:
        """Return `runtime`, or its default."""
        return self.runtime or "onnx"


def _parts(found: str | dict[str, str] | None) -> dict[str, str]:
    if found is None:
        return {}
    return {"model": found} if isinstance(found, str) else found
