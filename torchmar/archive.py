"""Build a model archive from a model.yaml: a .mar, or a folder that TorchServe serves in place.

Builds are reproducible: the same inputs, versions and kind of machine give the same bytes; see pack/ for the
form. mar.py describes what torchmar adds to the model.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from . import __version__, pack
from .compare import Comparator
from .compress import SECONDS, compress
from .drift import recorded
from .errors import ArchiveCorrupt, ArchiveError, ArchiveExists, WeightsUnavailable, WorkerLoadError
from .export import (
    Artifacts,
    Progress,
    Weights,
    build_artifacts,
    inputs_digest,
    names_of_archive,
    needed_by_file,
    needed_by_task,
    needed_handlers,
    prepared,
    toolchain,
)
from .files import DISK_FULL
from .golden import rounded
from .handler import STOCK
from .handler_code import PACKAGE
from .lineage import Lineage
from .mar import (
    BUILD,
    COMPARE,
    GOLDEN,
    GOLDEN_ANSWERS,
    LINEAGE,
    PARITY,
    PRICE,
    REFERENCE,
    Archive,
    read,
    verify,
)
from .measure.price import Price, Speed
from .model_files import external_data
from .pack import Source
from .spec import SPEC_FILE, ModelSource
from .worker import GENERATED, NEEDS_TORCH, Check, check_unpacked

FORMAT = 4
"""Raised by hand whenever torchmar, not its handlers, makes a different archive of the same inputs."""

CONFIG = "model-config.yaml"
ENTRY = "handler.py"
REQUIREMENTS = "requirements.txt"

SITECUSTOMIZE = '''\
"""Python runs this first in every worker of this archive, see handlers/worker/lazy_torch.py."""

from handlers.worker.lazy_torch import install, run_shadowed_sitecustomize

install()
run_shadowed_sitecustomize(__file__)
'''

_ENTRY = '''\
"""What TorchServe loads: a module with exactly one class of its own."""

from {module} import {name} as Task


class Handler(Task):
    """{name} of {module}."""
'''


@dataclass(frozen=True)
class Built:
    """The result of `build`: an archive, and whether it already existed.

    `notes` are sentences on what was done unasked. `speed` was measured if the model was compressed just now;
    the archive does not hold it, because it is never the same.
    """

    archive: Archive
    was_there: bool
    check: Check | None = None
    notes: tuple[str, ...] = ()
    speed: Speed | None = None


# -- build --------------------------------------------------------------------------------------


def build(
    source: ModelSource,
    store: Path,
    *,
    weights: Weights = Weights(),  # noqa: B008 (frozen)
    directory: bool = False,
    force: bool = False,
    progress: Progress = lambda _: None,
    seconds: float = SECONDS,
    lineage: Lineage | None = None,
) -> Built:
    """Export, check parity, compress, pack, load it once in a worker, and give it its name in `store`.

    With `directory`, the archive is the folder NAME-VERSION instead of NAME-VERSION.mar. `seconds` is how
    long a model that is compressed is timed at each batch size. The archive carries `lineage`, with the
    digest of the weights' file; None writes none. An archive that was built from the same inputs, and with
    the same lineage, stays as it is. Raises ArchiveExists if the store holds other contents under the same
    name and version, unless `force`.
    """
    target = store / f"{source.spec.name}-{source.spec.version}{'' if directory else '.mar'}"
    pack.entry_time()  # reports a wrong SOURCE_DATE_EPOCH before anything is built
    if weights.origin != Weights().origin and not source.spec.sources:
        remedy = "name the file as `artifact` in model.yaml"
        what = "nothing loads it into a module, for there is no `source`"
        raise WeightsUnavailable(f"--weights {weights.origin}: {remedy}: {source.spec.name}: {what}")
    with ThreadPoolExecutor(1) as aside, _report_os_errors(target):
        source = prepared(source)
        given = _Given(source, weights, lineage, aside)
        if os.path.lexists(target) and not force:
            existing = _verified(target)
            if weights.file is not None:
                progress(f"reading {weights.file.name}")
            digest = _build_digest(source, weights, given)
            if existing.build is not None and existing.build.get("inputs_sha256") == digest:
                return Built(existing, was_there=True)
            raise pack.name_taken_error(target, built=False)
        try:
            store.mkdir(parents=True, exist_ok=True)
            # Test with a nameless file: permissions alone do not decide whether it can be written.
            with tempfile.TemporaryFile(prefix=".torchmar-", dir=store):
                pass
        except OSError as error:
            raise ArchiveError(f"{store}: no folder to put archives in: {error.strerror}") from error
        # A folder archive takes over the exported files by renaming, so they must be on the store's
        # filesystem.
        parent = store if directory else None
        with tempfile.TemporaryDirectory(prefix=".torchmar-build-", dir=parent) as temporary:
            folder = Path(temporary)
            return _build(
                source, weights, given, target, folder, force=force, progress=progress, seconds=seconds
            )


@contextmanager
def _report_os_errors(target: Path) -> Iterator[None]:
    """Raise ArchiveError for the block's OSError, with the free space if a disk is full."""
    try:
        yield
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
        if error.errno in DISK_FULL:
            places = sorted({tempfile.gettempdir(), str(target.parent)})
            free = [f"{shutil.disk_usage(place).free:,} bytes are free in {place}" for place in places]
            what = f"make room, or set TMPDIR to another folder: {what} ({'; '.join(free)})"
        raise ArchiveError(f"{target}: could not be built: {what}") from error


def _build(
    source: ModelSource,
    weights: Weights,
    given: _Given,
    target: Path,
    folder: Path,
    *,
    force: bool,
    progress: Progress,
    seconds: float,
) -> Built:
    staging = folder / "staging" / source.spec.name
    staging.mkdir(parents=True)
    notes: Sequence[str] = ()
    speed: Speed | None = None
    if source.handler.is_batch:
        artifacts, price = build_artifacts(source, weights, folder, progress), None
        if source.spec.compress is not None:
            compressed = compress(source, artifacts, folder, progress, seconds=seconds)
            artifacts, price, speed = compressed.artifacts, compressed.price, compressed.speed
        notes = [*artifacts.notes, *_unread_requirements(source)]
        progress("packing")
        known = _stage_batch(source, artifacts, given, folder, staging, price)
    else:
        notes = _stage_custom(source, staging)
        known = {}
    _stage_about(source, weights, given, staging)
    notes = [*notes, *_stage_reference(source, staging, target, progress)]
    answered: dict[str, Any] = {}
    comparator = Comparator.of(source.spec.compare)
    if not source.handler.is_batch and source.golden_files():
        progress("loading it in a worker")
        recorded = check_unpacked(staging, target, record=True)
        recorded.raise_for_failure()
        answered = {each.name: each.found for each in recorded.golden}
        expected = {name: rounded(answer, comparator) for name, answer in answered.items()}
        _write_golden(staging, expected, source.golden_files())
        progress("packing")
    contents = pack.contents_of(staging, known)
    # The worker loads the same files that are packed meanwhile; none may change before both are done.
    with pack.beside(target) as hidden, ThreadPoolExecutor(1) as aside:
        packing = aside.submit(_pack, contents, hidden, target)
        progress("loading it in a worker")
        check = check_unpacked(staging, target)
        if not source.handler.is_batch:
            _require_same(check, answered, comparator)
        check.raise_for_failure()
        if source.spec.torch_free and NEEDS_TORCH in check.caveats:
            remedy = "leave `torch_free` out of model.yaml, or compute without torch"
            raise WorkerLoadError(f"{target}: {remedy}: its worker has loaded torch")
        packed = packing.result()
        pack.require_unchanged(contents)
        try:
            pack.publish(hidden, target, force=force)
        except ArchiveExists:
            there = _of_another_build(target, packed)
            if there is None:
                raise
            return Built(there, was_there=True, check=check, notes=tuple(notes), speed=speed)
    archive = replace(packed, path=target)
    return Built(archive, was_there=False, check=check, notes=tuple(notes), speed=speed)


def _unread_requirements(source: ModelSource) -> Iterator[str]:
    if source.has_code and not source.spec.requirements and (source.directory / REQUIREMENTS).is_file():
        yield f"{REQUIREMENTS} is not read: list what its workers import under `requirements` in model.yaml"


def _require_same(check: Check, recorded: Mapping[str, Any], comparator: Comparator) -> None:
    """Raise WorkerLoadError if the answers differ from the ones that were just recorded."""
    changed = check.changed(recorded, comparator)
    if changed:
        remedy = f"leave {', '.join(changed)} out of `golden`, or choose `compare` in model.yaml"
        reason = f"{remedy}: it answers otherwise each time it is asked: {'; '.join(changed.values())}"
        raise WorkerLoadError(reason, check.details)


def _pack(contents: pack.Contents, hidden: Path, target: Path) -> Archive:
    files = pack.write(contents, hidden, target=target)
    return pack.verify_written(hidden, files, contents)


def _of_another_build(target: Path, packed: Archive) -> Archive | None:
    """Return the archive that a faster process put there, if it is the same."""
    try:
        there = read(target)
    except ArchiveError:
        return None
    return there if there.contents_sha256 == packed.contents_sha256 else None


def _verified(target: Path) -> Archive:
    try:
        return verify(target)
    except ArchiveCorrupt as error:
        raise ArchiveCorrupt(f"{error}\n  (--replace replaces it)") from error


class _Given:
    """What is given besides the model's folder: the file that --weights names, and the lineage, if any.

    The file's digest is computed in parallel, because it is needed later.
    """

    def __init__(
        self, source: ModelSource, weights: Weights, lineage: Lineage | None, aside: ThreadPoolExecutor
    ) -> None:
        _require_possible(lineage, source)
        self._lineage = lineage
        self.file = weights.file
        self._digested: Future[Source] | None = None
        if self.file is not None:
            with self._readable():
                opened = Source.of(self.file)
                if self.file.is_file():  # a pipe would block
                    self._digested = aside.submit(opened.digested)

    def digested(self) -> Source | None:
        """Return the file with its digests. Raises WeightsUnavailable."""
        if self.file is not None and self._digested is None:
            raise WeightsUnavailable(f"--weights {self.file}: no file (or write `random`)")
        with self._readable():
            return None if self._digested is None else self._digested.result()

    def lineage(self) -> Lineage | None:
        """Return the lineage with the digest of the file. Raises WeightsUnavailable."""
        digested = self.digested()
        if self._lineage is None or digested is None:
            return self._lineage
        return replace(self._lineage, weights_sha256=digested.sha256)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            what = f"--weights {self.file}: {error.strerror} (or write `random`)"
            raise WeightsUnavailable(what) from None


def _require_possible(lineage: Lineage | None, source: ModelSource) -> None:
    """Raise ArchiveError for a lineage that nobody could read back, or of an archive that follows itself."""
    if lineage is None:
        return
    named = source.spec.name, source.spec.version
    if lineage.parent is not None and (lineage.parent.name, lineage.parent.version) == named:
        raise ArchiveError(f"{' '.join(named)}: choose another `version`: its parent has the same one")
    try:
        Lineage.of(lineage.as_json())
    except ValueError as error:
        raise ArchiveError(f"{' '.join(named)}: its lineage: {error}") from None


def _build_digest(source: ModelSource, weights: Weights, given: _Given) -> str:
    digested = given.digested()
    inputs = inputs_digest(source, weights, None if digested is None else digested.sha256)
    digest = hashlib.sha256(f"{FORMAT} {__version__} {pack.entry_time()} {inputs}".encode())
    if (lineage := given.lineage()) is not None:
        digest.update(lineage.as_bytes())
    # Ordered by name: the order of paths would depend on the folder.
    for path in [*_handlers_of(source).values(), source.file]:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _handlers_of(source: ModelSource) -> dict[str, Path]:
    """Return the files of handlers/ that its archive carries."""
    handler = source.handler
    if not handler.is_batch:
        names = [] if handler.file is None else names_of_archive(handler.file)
        names += ["worker"] if source.spec.torch_free else []
        return needed_handlers(names) if names else {}
    return needed_by_task(handler.named) if handler.file is None else needed_by_file(handler.file)


# -- what is in it ------------------------------------------------------------------------------


def _stage_batch(
    source: ModelSource,
    artifacts: Artifacts,
    given: _Given,
    folder: Path,
    staging: Path,
    price: Price | None,
) -> dict[str, Source]:
    """Lay out an archive whose handler is a BatchHandler; returns the sources of its largest files."""
    spec = source.spec
    known: dict[str, Source] = {}
    for part, file in artifacts.files.items():
        name = artifacts.models[part]["file"]
        if file == given.file:
            (staging / name).symlink_to(file.resolve())
            packed = given.digested()
        else:
            file.rename(staging / name)
            packed = Source.of(staging / name, linkable=True)
        assert packed is not None
        known[name] = packed
    if (folder / PACKAGE).exists():
        (folder / PACKAGE).rename(staging / PACKAGE)
    _copy_handlers(source, staging)
    text = _ENTRY.format(module=source.handler.module, name=artifacts.handler.__name__)
    (staging / ENTRY).write_text(text, encoding="utf-8")
    if all(model["format"] == "onnx" for model in artifacts.models.values()):
        (staging / "sitecustomize.py").write_text(SITECUSTOMIZE, encoding="utf-8")
    section: dict[str, Any] = {
        "task": spec.handler,
        "models": dict(artifacts.models),
        "threads": spec.serving.threads,
        "workers": spec.serving.max_workers or spec.serving.min_workers,
        "params": spec.params,
    }
    if spec.record is not None:
        section["record"] = {key: value for key, value in asdict(spec.record).items() if value is not None}
    _write_config(source, {**spec.config, "handler": section}, staging)
    _write_requirements(artifacts.requirements, staging)
    (staging / "MAR-INF").mkdir()
    if artifacts.parity is not None:
        runtime = {"runtime": spec.export_to}
        _write_json(staging / PARITY, {**runtime, **asdict(artifacts.parity)})
    if price is not None:
        _write_json(staging / PRICE, asdict(price))
    _write_json(staging / COMPARE, artifacts.comparator.as_json())
    _write_golden(staging, artifacts.golden, source.golden_files())
    _add_manifest(source, staging, ENTRY)
    return known


def _stage_custom(source: ModelSource, staging: Path) -> list[str]:
    """Lay out any other handler's archive as torch-model-archiver does: all files in the top folder.

    Returns sentences on what was done unasked.
    """
    spec, notes = source.spec, []
    for path in source.packed_files():
        target = staging / path.relative_to(source.directory)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    artifact = next(iter(spec.artifacts.values()), None)
    for name in filter(None, (artifact, spec.model_file)):
        shutil.copyfile(source.directory / name, staging / Path(name).name)
    if artifact is not None:
        _copy_external_data(source.directory / artifact, staging)
    handler = _handler_of(source, staging)
    _copy_handlers(source, staging)
    if spec.torch_free:
        (staging / "sitecustomize.py").write_text(SITECUSTOMIZE, encoding="utf-8")
    _write_config(source, {**spec.config, **({"handler": spec.params} if spec.params else {})}, staging)
    _write_requirements(spec.requirements, staging)
    if not spec.requirements and (source.directory / REQUIREMENTS).is_file():
        shutil.copyfile(source.directory / REQUIREMENTS, staging / REQUIREMENTS)
        notes.append(f"{REQUIREMENTS} beside model.yaml serves as its `requirements`")
    (staging / "MAR-INF").mkdir()
    _write_json(staging / COMPARE, Comparator.of(spec.compare).as_json())
    _write_golden(staging, {}, source.golden_files())
    model_file = None if spec.model_file is None else Path(spec.model_file).name
    serialized = None if artifact is None else Path(artifact).name
    _add_manifest(source, staging, handler, model_file=model_file, serialized_file=serialized)
    return notes


def _copy_external_data(artifact: Path, staging: Path) -> None:
    """Copy the weights that an .onnx has in other files. Raises ArchiveError."""
    for path in external_data(artifact):
        target = staging / path.relative_to(artifact.parent)
        if not path.is_file():
            raise ArchiveError(
                f"{artifact}: put {path.name} beside it: the file holds its weights, and is missing"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _handler_of(source: ModelSource, staging: Path) -> str:
    """Return the manifest's handler for one of TorchServe's kind.

    TorchServe takes a file with exactly one class; for a file with several, a generated file names one.
    """
    handler, named = source.handler, source.spec.handler
    if handler.file is None or handler.wanted is None or not handler.names_a_class:
        return named.removeprefix(STOCK)
    if handler.names_the_only_class:
        return handler.file.name
    text = _ENTRY.format(module=handler.file.stem, name=handler.wanted)
    (staging / GENERATED).write_text(text, encoding="utf-8")
    return GENERATED


def _stage_about(source: ModelSource, weights: Weights, given: _Given, staging: Path) -> None:
    """Record what it was built from."""
    spec = source.spec
    shutil.copyfile(source.file, staging / "MAR-INF" / SPEC_FILE)
    if (lineage := given.lineage()) is not None:
        (staging / LINEAGE).write_bytes(lineage.as_bytes())
    origin = "file" if weights.file is not None else weights.origin
    requirements = staging / REQUIREMENTS
    needed = requirements.read_text(encoding="utf-8").splitlines() if requirements.exists() else []
    _write_json(
        staging / BUILD,
        {
            "torchmar": __version__,
            "inputs_sha256": _build_digest(source, weights, given),
            **({"weights": {"origin": origin, "seed": weights.seed}} if spec.sources else {}),
            # MAR-INF/model.yaml may differ: the command line's options win over the file.
            "version": spec.version,
            "runtime": spec.export_to if spec.sources else "as_is",
            "toolchain": toolchain(source),
            **({"requirements": needed} if needed else {}),
            **({"allow_pickle": True} if spec.allow_pickle else {}),
        },
    )


def _stage_reference(source: ModelSource, staging: Path, target: Path, progress: Progress) -> list[str]:
    """Record what the requests of `reference` and their answers are like; returns notes on refused ones."""
    if source.spec.reference is None:
        return []
    progress("answering the requests of its reference")
    comparator = Comparator.of(json.loads((staging / COMPARE).read_bytes()))
    try:
        reference, note = recorded(staging, comparator, source.directory / source.spec.reference)
    except WorkerLoadError as error:
        raise WorkerLoadError(str(error).replace(str(staging), str(target)), error.details) from None
    (staging / REFERENCE).write_bytes(reference.as_bytes())
    return [note] if note else []


def _copy_handlers(source: ModelSource, staging: Path) -> None:
    for name, path in _handlers_of(source).items():
        target = staging / "handlers" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _write_golden(staging: Path, expected: Mapping[str, Any], requests: Sequence[Path]) -> None:
    if any(path.name == Path(GOLDEN_ANSWERS).name for path in requests):
        raise ArchiveError(f"golden request {Path(GOLDEN_ANSWERS).name}: the archive needs that name itself")
    if not requests:
        return
    (staging / GOLDEN).mkdir(exist_ok=True)
    for path in requests:
        shutil.copyfile(path, staging / GOLDEN / path.name)
    if expected:
        _write_json(staging / GOLDEN_ANSWERS, expected)


def _write_requirements(requirements: Sequence[str], staging: Path) -> None:
    if requirements:
        text = "\n".join(dict.fromkeys(requirements)) + "\n"
        (staging / REQUIREMENTS).write_text(text, encoding="utf-8")


def _write_config(source: ModelSource, besides: Mapping[str, Any], staging: Path) -> None:
    """Write TorchServe's model-config.yaml; only the handler reads the section `handler`."""
    serving = source.spec.serving
    config: dict[str, Any] = {
        "minWorkers": serving.min_workers,
        "maxWorkers": serving.max_workers or serving.min_workers,
        "batchSize": serving.batch_size,
        "maxBatchDelay": serving.max_batch_delay,
        "responseTimeout": serving.response_timeout,
        "startupTimeout": serving.startup_timeout,
        "maxRetryTimeoutInSec": serving.max_retry_timeout_in_sec,
        "jobQueueSize": serving.job_queue_size,
    }
    if serving.device_type is not None:
        config["deviceType"] = serving.device_type
    text = yaml.safe_dump({**config, **besides}, sort_keys=False, allow_unicode=True)
    (staging / CONFIG).write_text(text, encoding="utf-8")


def _write_json(path: Path, content: Any) -> None:
    text = json.dumps(content, indent=2, sort_keys=not isinstance(content, list), ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _add_manifest(
    source: ModelSource,
    folder: Path,
    handler: str,
    *,
    model_file: str | None = None,
    serialized_file: str | None = None,
) -> None:
    """Add the manifest by torch-model-archiver's Python API, in its format no-archive.

    It completes `folder` in place. Its `package_model` would first delete <tempdir>/<model name>, whoever
    owns it, and flatten folders; its zips hold the build time, in the filesystem's order.
    """
    from model_archiver.model_archiver_config import ModelArchiverConfig
    from model_archiver.model_archiver_error import ModelArchiverError
    from model_archiver.model_packaging_utils import ModelExportUtils

    spec = source.spec
    requirements = folder / REQUIREMENTS
    try:
        ModelExportUtils.validate_inputs(spec.name, str(folder.parent))
        text = ModelExportUtils.generate_manifest_json(
            ModelArchiverConfig(
                model_name=spec.name,
                version=spec.version,
                handler=handler,
                model_file=model_file,
                serialized_file=serialized_file,
                config_file=CONFIG,
                requirements_file=requirements.name if requirements.exists() else None,
            )
        )
        created = time.strftime("%d/%m/%Y %H:%M:%S", time.gmtime(pack.entry_time()))
        manifest = json.dumps({**json.loads(text), "createdOn": created}, indent=2, sort_keys=True) + "\n"
        # It writes into <export folder>/<model name>, which is `folder` itself, so it copies nothing.
        ModelExportUtils.archive(str(folder.parent), folder.name, str(folder), manifest, "no-archive")
    except ModelArchiverError as error:
        raise ArchiveError(f"{spec.name}: torch-model-archiver refused it: {error}") from error
