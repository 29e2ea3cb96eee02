"""model.yaml → ModelSpec: every problem of a file reported at once, with its line.

One file says all there is to say of a model. This is the only room that knows pydantic.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel
from pydantic.dataclasses import dataclass

from .errors import Problem, SpecError
from .files import decode_text, is_file
from .model_files import LARGE, files_of, matching, read_labels, requests_in
from .names import LONGEST, shown

SPEC_FILE = "model.yaml"

# Extra keys are errors: a misspelt key that is ignored is a setting that silently does nothing.
_STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)
_CAMEL = ConfigDict(extra="forbid", use_attribute_docstrings=True, alias_generator=to_camel)

Runtime = Literal["onnx", "aoti", "eager"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Channels = tuple[Finite, Finite, Finite]
# Strict: `batchSize: yes` is no number, though Python counts with it.
Positive = Annotated[int, Field(ge=1, strict=True)]
# What Java reads as an Integer; it warns in its log of a larger one, and takes its default.
JavaPositive = Annotated[int, Field(ge=1, lt=2**31, strict=True)]
HeightWidth = tuple[Positive, Positive]

# TorchServe's own pattern for names. A name or version that begins with "token" cannot be managed: TorchServe
# takes every management request whose URL contains "/token" for a call to its token API. It registers no file
# with `..` in its name, which NAME-VERSION.mar must not have.
_NAME = re.compile(r"(?!token)(?!.*\.(\.|$))[A-Za-z0-9][A-Za-z0-9_\-.]*")
_SOURCE = re.compile(r"[A-Za-z_]\w*:[A-Za-z_]\w*")


@dataclass(frozen=True, config=_STRICT)
class ImageInput:
    """How a picture becomes a tensor: Resize, CenterCrop, ToTensor, Normalize, as torchvision does it."""

    size: Positive | HeightWidth
    """Resize to [height, width]; or one number for the shorter side, which then needs `crop`."""
    mean: Channels
    """Mean of each channel, red, green, blue, on the scale 0 to 1."""
    std: Channels
    """Standard deviation of each channel, on the scale 0 to 1."""
    crop: HeightWidth | None = None
    """Crop the centre to [height, width] after resizing."""
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    """How Resize samples."""


@dataclass(frozen=True, config=_STRICT)
class InputLimits:
    """What one request may cost; what is not given stays at the handler's default."""

    max_bytes: Positive | None = None
    """Bytes of one picture file."""
    max_pixels: Positive | None = None
    """Width times height of one picture."""
    max_instances: Positive | None = None
    """Pictures in one JSON request."""
    max_total_pixels: Positive | None = None
    """Width times height of all pictures of a request; a JPEG's scans after the tenth count a tenth each."""


@dataclass(frozen=True, config=_STRICT)
class Input:
    """What a request carries."""

    image: ImageInput
    limits: InputLimits = InputLimits()


@dataclass(frozen=True, config=_STRICT)
class Output:
    """What an answer carries. TorchServe hands no query string to a handler, so it is chosen here."""

    topk: Positive = 5
    """How many classes an answer lists, the likeliest first."""
    scores: Literal["logits", "probabilities", "sigmoid"] = "logits"
    """What the module's outputs are. logits: their softmax are the probabilities. probabilities: they are
    taken as they are. sigmoid: logits of which each is a class of its own. One output is the second of two
    classes, so `labels` names two."""


@dataclass(frozen=True, config=_STRICT)
class Accept:
    """What the artifact must keep of the module it came from; the archive is not built otherwise."""

    top1_agreement: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Least share of inputs whose likeliest class is the module's."""
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
    task: Literal["image_classification"]
    """Which handler serves it."""
    source: str
    """`file:function`, a Python file beside this one and a function in it. Called with `pretrained=True` it
    returns the module with its weights, with `pretrained=False` the same module without."""
    input: Input
    labels: str | None = None
    """`imagenet1k`, or a file beside this one: .txt with one label a line, or .json with a list."""
    runtime: Runtime = "onnx"
    """onnx: ONNX Runtime, no torch while serving. aoti: AOTInductor. eager: the module itself."""
    output: Output = Output()
    accept: Accept = Accept()
    serving: Serving = Serving()
    record: Record | None = None
    golden: str | None = None
    """A folder beside this file with requests (pictures) that the archive must answer as the module does."""
    requirements: list[str] = field(default_factory=list)
    """What an eager archive's code imports besides torch, as pip requirements."""
    files: list[str] | None = None
    """What an eager archive's code reads besides its Python files: files or folders beside this one, also
    with `*`. The default is every file of the folder up to 1 MB but golden requests and hidden ones."""
    description: str = ""


@dataclass(frozen=True)
class ModelSource:
    """A folder with a model.yaml, and what the file says."""

    directory: Path
    spec: ModelSpec
    file_name: str = SPEC_FILE

    @property
    def file(self) -> Path:
        """The model.yaml, whatever it is called."""
        return self.directory / self.file_name

    def code_files(self) -> list[Path]:
        """What an eager archive carries to build its module: the Python files, and the data that they read.

        Raises SpecError where that is so much that it was hardly meant.
        """
        files = everything = self.all_files()
        if self.spec.golden is not None:
            requests = self.directory / self.spec.golden
            files = [path for path in everything if not path.is_relative_to(requests)]
        code = [path for path in files if path.suffix == ".py"]
        if self.spec.files is None:
            data = [path for path in files if path not in code and path != self.file]
            data = [path for path in data if path.stat().st_size <= LARGE]
            self._require_few(data)
        else:
            listed = [matching(self.directory, everything, pattern) for pattern in self.spec.files]
            data = [path for paths in listed for path in paths]
        known: dict[str, str] = {}
        for path in sorted({*code, *data}):
            name = path.relative_to(self.directory).as_posix()
            other = known.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
            if other != name:
                what = f"{shown(name)!r} and {shown(other)!r} are one file to some machines"
                raise SpecError(str(self.file), [Problem("files", what, remedy="rename one of them")])
            if not name.isprintable() or "\\" in name:
                what = f"{shown(name)!r} cannot be the name of a file in an archive"
                raise SpecError(str(self.file), [Problem("files", what, remedy="rename it")])
        return sorted({*code, *data})

    def _require_few(self, data: Sequence[Path]) -> None:
        total = sum(path.stat().st_size for path in data)
        if len(data) > MOST_FILES or total > MOST_BYTES:
            what = f"{len(data):,} files of {total:,} bytes would be packed with the code of an eager model"
            remedy = "list those that it reads: `files: [names.json, assets]`, or `files: []` for none"
            raise SpecError(str(self.file), [Problem("files", what, remedy=remedy)])

    def all_files(self) -> list[Path]:
        """Every file of the folder that may shape the archive: all but hidden ones and caches.

        Raises SpecError where a folder in it cannot be read.
        """
        try:
            return files_of(self.directory)
        except OSError as error:
            raise self.unreadable(error) from None

    def unreadable(self, error: OSError) -> SpecError:
        """What to raise where a file or a folder of the model's cannot be read."""
        what = f"{error.filename or self.directory}: cannot be read: {error.strerror}"
        remedy = "make it readable, or move it out of the model's folder"
        return SpecError(str(self.file), [Problem("", what, remedy=remedy)])

    def golden_files(self) -> list[Path]:
        """The golden requests, in the order of their names."""
        return [] if self.spec.golden is None else requests_in(self.directory / self.spec.golden)

    def labels(self) -> list[str] | None:
        """The label of each class, in the order of their index."""
        if self.spec.labels is None:
            return None
        if self.spec.labels in NAMED_LABELS:
            text = (files("torchmar") / "data" / f"{self.spec.labels}.txt").read_text(encoding="utf-8")
            return text.splitlines()
        return read_labels(self.directory / self.spec.labels)


MOST_PIXELS = 50_000_000
"""Of one picture as the model takes it; handlers refuse to resize to more."""

# Of data that nobody listed.
MOST_FILES = 1000
MOST_BYTES = 20_000_000

NAMED_LABELS = ("imagenet1k",)
_ADAPTER = TypeAdapter(ModelSpec)


def json_schema() -> dict[str, Any]:
    """JSON Schema of model.yaml, for editors."""
    schema = _ADAPTER.json_schema(by_alias=True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "torchmar model.yaml",
    }


def load_model(path: Path, overrides: Mapping[str, Any] | None = None) -> ModelSource:
    """Read a model folder, or the model.yaml in it.

    `overrides` replace top-level keys of the file (`version`, `runtime`), as the command line's options do.
    Raises SpecError with every problem found.
    """
    file = path
    try:
        if path.is_dir() or path.suffix not in {".yaml", ".yml"}:
            file = path / SPEC_FILE
        text = decode_text(file.read_bytes())
    except (OSError, ValueError) as error:  # not UTF-8, a name with a null byte
        remedy = f"give a folder that holds a {SPEC_FILE}"
        raise SpecError(str(file), [Problem("", f"cannot be read: {error}", remedy=remedy)]) from None
    spec = parse_spec(text, str(file), file.parent, overrides)
    return ModelSource(file.parent, spec, file.name)


def parse_spec(
    text: str, file: str, directory: Path, overrides: Mapping[str, Any] | None = None
) -> ModelSpec:
    """The spec in `text`; `file` names it in errors, `directory` is where its files are."""
    try:
        document = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
        # Anchors that go in a circle, numbers of thousands of digits: YAML, but nothing that can be shown.
        json.dumps(data, default=str, skipkeys=True)
    except Exception as error:  # PyYAML's constructors raise anything: KeyError for `!!bool x`, …
        mark = getattr(error, "problem_mark", None)
        what = f"not YAML: {getattr(error, 'problem', None) or str(error) or type(error).__name__}"
        raise SpecError(file, [Problem("", what, mark.line + 1 if mark else 0)]) from None
    if not isinstance(data, dict):
        raise SpecError(file, [Problem("", f"expected keys with values, found {type(data).__name__}")])
    problems = list(_duplicate_keys(document))
    if overrides and isinstance(document, yaml.MappingNode):
        data = {**data, **overrides}
        # What is overridden is not in the file: no line of it is to blame.
        document.value = [pair for pair in document.value if pair[0].value not in overrides]
    try:
        spec = _ADAPTER.validate_python(data)
    except ValidationError as error:
        wrong = _explain(error, data, document)
        problems += wrong
        rest = _without(data, [problem.where for problem in wrong])
        try:
            spec = _ADAPTER.validate_python(rest)
        except ValidationError:  # more is wrong than can be left out
            raise SpecError(file, sorted(problems, key=lambda problem: problem.line)) from None
        # What could not be read was replaced to check the rest: say nothing about the replacement.
        unread = {problem.where.split(".")[0] for problem in wrong}
        meaning = _check_meaning(spec, directory, document)
        problems += [problem for problem in meaning if problem.where.split(".")[0] not in unread]
    else:
        problems += _check_meaning(spec, directory, document)
    if problems:
        raise SpecError(file, sorted(problems, key=lambda problem: problem.line))
    return spec


def _without(data: Mapping[str, Any], wrong: Sequence[str]) -> dict[str, Any]:
    """`data` less its wrong top-level keys, with sound values where one is required."""
    image = {"size": [1, 1], "mean": [0, 0, 0], "std": [1, 1, 1]}
    sound: dict[str, Any] = {
        "name": "a",
        "version": "a",
        "task": "image_classification",
        "source": "a:a",
        "input": {"image": image},
    }
    unsound = {where.split(".")[0] for where in wrong}
    return {**sound, **{key: value for key, value in data.items() if key not in unsound}}


# -- where in the file --------------------------------------------------------------------------


def _line(document: yaml.Node | None, path: Sequence[str | int]) -> int:
    """The line of the deepest part of `path` that the file has; 0 for the file itself."""
    return _locate(document, path)[0]


def _locate(document: yaml.Node | None, path: Sequence[str | int]) -> tuple[int, yaml.Node | None]:
    """The deepest part of `path` that the file has, and its line."""
    line, node = 0, document
    for part in path:
        if isinstance(node, yaml.MappingNode):
            found = [pair for pair in node.value if pair[0].value == str(part)]
            if not found:
                break
            line, node = found[-1][0].start_mark.line + 1, found[-1][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line, node


def _duplicate_keys(node: yaml.Node | None, prefix: str = "") -> Iterator[Problem]:
    """YAML lets a later key replace an earlier one without a word."""
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            yield from _duplicate_keys(child, prefix)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for key, value in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name in seen:
            yield Problem(prefix + name, f"given twice, first in line {seen[name]}", line)
        seen.setdefault(name, line)
        yield from _duplicate_keys(value, f"{prefix}{name}.")


# -- what is wrong ------------------------------------------------------------------------------


def _explain(error: ValidationError, data: Any, document: yaml.Node | None) -> list[Problem]:
    """Pydantic's errors in the words of model.yaml; one for each place in the file."""
    problems: dict[tuple[str | int, ...], Problem] = {}
    for item in error.errors(include_url=False):
        path = _path_in_file(item["loc"], data, item["type"])
        where = ".".join(map(str, path))
        line, node = _locate(document, path)
        what, remedy = _describe(item, path, node)
        if path in problems and problems[path].what != what:
            what = f"{problems[path].what}; or {what}"  # each branch of a union complains
        problems[path] = Problem(where, what, line, remedy)
    return list(problems.values())


def _path_in_file(location: Sequence[str | int], data: Any, kind: str) -> tuple[str | int, ...]:
    """Pydantic's location less the names of union branches, which the file does not have."""
    path: list[str | int] = []
    for position, part in enumerate(location):
        is_key = isinstance(data, dict) and part in data
        is_index = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if is_key or is_index:
            data = data[part]
        elif not (kind.startswith("missing") and position == len(location) - 1):
            continue
        path.append(part)
    return tuple(path)


def _describe(item: Any, path: Sequence[str | int], node: yaml.Node | None) -> tuple[str, str]:
    kind, value, message = item["type"], item["input"], item["msg"]
    if kind.startswith("missing"):
        return "missing", ""
    if kind in {"unexpected_keyword_argument", "extra_forbidden"}:
        known = _known_keys(path[:-1])
        close = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
        return "not a known key", f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
    if kind == "literal_error":
        expected = item["ctx"]["expected"]
        close = difflib.get_close_matches(str(value), re.findall(r"'([^']+)'", expected), n=1, cutoff=0.5)
        return f"found {value!r}, expected {expected}", f"did you mean {close[0]}?" if close else ""
    if kind == "string_type" and value is not None and isinstance(node, yaml.ScalarNode):
        found = {"int": "number", "float": "number"}.get(type(value).__name__, type(value).__name__)
        return f"found the {found} {value}", f'write it in quotes: "{node.value}"'  # 1.10, not 1.1
    if kind == "dataclass_type":
        return f"found {value!r}, expected keys with values", ""
    return f"found {value!r}: {message[:1].lower()}{message[1:]}", ""


def _known_keys(path: Sequence[str | int]) -> list[str]:
    """The keys that model.yaml knows at `path`."""
    kind: Any = ModelSpec
    for part in path:
        kind = next((f.type for f in fields(kind) if f.name == part), None)
        kind = _TYPES.get(kind, kind)
        if not is_dataclass(kind):
            return []
    camel = kind is Serving
    return [to_camel(f.name) if camel else f.name for f in fields(kind)]


# Annotations are strings here (postponed evaluation); these are the ones that are sections of the file.
_TYPES = {
    "Input": Input,
    "Output": Output,
    "Accept": Accept,
    "Serving": Serving,
    "ImageInput": ImageInput,
    "InputLimits": InputLimits,
    "Record | None": Record,
}


def _check_meaning(spec: ModelSpec, directory: Path, document: yaml.Node | None) -> Iterator[Problem]:
    """What types alone do not say: names, files that must exist, values that must fit each other."""

    def problem(where: str, what: str, remedy: str = "") -> Problem:
        return Problem(where, what, _line(document, where.split(".")), remedy)

    yield from _check_names(spec, problem)
    image = spec.input.image
    if isinstance(image.size, int) and image.crop is None:
        yield problem("input.image.size", "one number gives pictures of different shapes", "add crop: [h, w]")
    if image.crop is not None:
        least = (image.size, image.size) if isinstance(image.size, int) else image.size
        if image.crop[0] > least[0] or image.crop[1] > least[1]:
            yield problem("input.image.crop", f"{list(image.crop)} is larger than size")
    for key in ("size", "crop"):
        shape = getattr(image, key)
        if shape is not None and (math.prod(shape) if isinstance(shape, tuple) else shape**2) > MOST_PIXELS:
            what = f"{shape if isinstance(shape, int) else list(shape)} is more than {MOST_PIXELS:,} pixels"
            yield problem(f"input.image.{key}", what, "no picture is resized to that")
    if any(value <= 0 for value in image.std):
        yield problem("input.image.std", f"found {list(image.std)}: each must be above 0")

    serving = spec.serving
    if serving.max_workers is not None and serving.max_workers < serving.min_workers:
        what = f"{serving.max_workers} is below minWorkers, {serving.min_workers}"
        yield problem("serving.maxWorkers", what, "TorchServe would ignore both")

    if spec.record is not None and not spec.record.folder.startswith("/"):
        remedy = "an absolute path: a worker runs in a folder that TorchServe removes"
        yield problem("record.folder", f"found {spec.record.folder!r}", remedy)

    yield from _check_files(spec, directory, problem)


def _check_names(spec: ModelSpec, problem: Any) -> Iterator[Problem]:
    for key, value in (("name", spec.name), ("version", spec.version)):
        if not _NAME.fullmatch(value) or (key == "version" and value == "all"):
            remedy = "letters, digits, `_`, `-` and single `.` within, not beginning with `token`" + (
                "; `all` is TorchServe's word for every version" if key == "version" else ""
            )
            yield problem(key, f"found {shown(value)!r}, which TorchServe cannot manage", remedy)
    together = len(spec.name) + len(spec.version)
    if together > LONGEST:
        key = "name" if len(spec.name) >= len(spec.version) else "version"
        remedy = f"at most {LONGEST}: they are the name of one file"
        yield problem(key, f"name and version have {together:,} characters together", remedy)


def _check_files(spec: ModelSpec, directory: Path, problem: Any) -> Iterator[Problem]:
    if not _SOURCE.fullmatch(spec.source):
        yield problem("source", f"found {spec.source!r}", "write file:function, without .py")
    else:
        file = directory / (spec.source.partition(":")[0] + ".py")
        if not is_file(file):
            yield problem("source", f"no file {file.name} beside model.yaml")
    if spec.golden is not None:
        try:
            requests_in(directory / spec.golden)
        except (OSError, ValueError) as error:  # no folder; a name with a null byte
            what = f"no folder {shown(spec.golden)} with files in it beside model.yaml"
            yield problem("golden", what, getattr(error, "strerror", None) or str(error))
    if spec.labels is not None and spec.labels not in NAMED_LABELS:
        try:
            read_labels(directory / spec.labels)
        except (OSError, ValueError, RecursionError) as error:
            remedy = f"a file beside model.yaml, or {' or '.join(NAMED_LABELS)}"
            what = f"{shown(spec.labels)}: {getattr(error, 'strerror', None) or error}"
            yield problem("labels", what, remedy)
    for requirement in spec.requirements:
        if not requirement.isprintable():
            yield problem("requirements", f"found {shown(requirement)!r}", "one requirement, in one line")
    yield from _check_listed(spec, directory, problem)


def _check_listed(spec: ModelSpec, directory: Path, problem: Any) -> Iterator[Problem]:
    if not spec.files:
        return
    try:
        there = files_of(directory)
    except OSError as error:
        yield problem("files", f"{error.filename}: cannot be read: {error.strerror}")
        return
    for pattern in spec.files:
        if not matching(directory, there, pattern):
            yield problem(
                "files", f"no file {shown(pattern)!r} beside model.yaml", "hidden ones are left out"
            )
