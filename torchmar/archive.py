"""ModelSpec + artifact → a model archive: a .mar, or a folder that TorchServe serves in place.

Reproducible: building twice from the same inputs with the same versions on the same kind of machine gives the
same bytes; see pack/ for the form they have. What torchmar adds besides the model is told in mar.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from . import __version__, pack
from .errors import ArchiveCorrupt, ArchiveError, ArchiveExists, WeightsUnavailable
from .export import (
    SUFFIX,
    Artifact,
    Progress,
    Weights,
    build_artifact,
    copy_code,
    inputs_digest,
    toolchain,
)
from .files import DISK_FULL
from .mar import BUILD, GOLDEN, GOLDEN_ANSWERS, PARITY, Archive, read, verify
from .pack import Source
from .spec import SPEC_FILE, ModelSource
from .worker import Check, check_unpacked

FORMAT = 1
"""Raised by hand whenever torchmar, and not its handlers, makes other archives of the same inputs."""

CONFIG = "model-config.yaml"
LABELS = "labels.json"
HANDLER = {"image_classification": "handlers.image_classifier"}

SITECUSTOMIZE = '''\
"""Python runs this first in every worker of this archive, see handlers/lazy_torch.py."""

from handlers.lazy_torch import install, run_shadowed_sitecustomize

install()
run_shadowed_sitecustomize(__file__)
'''


@dataclass(frozen=True)
class Built:
    """What `build` did: an archive, and whether it was there already.

    `notes` tell what was done that nobody asked for, a sentence each.
    """

    archive: Archive
    was_there: bool
    check: Check | None = None
    notes: tuple[str, ...] = ()


# -- build --------------------------------------------------------------------------------------


def build(
    source: ModelSource,
    store: Path,
    *,
    weights: Weights = Weights(),  # noqa: B008 (frozen)
    directory: bool = False,
    force: bool = False,
    progress: Progress = lambda _: None,
) -> Built:
    """Road (a): export, check parity, pack, load it once in a worker, and give it its name in `store`.

    With `directory` the archive is the folder NAME-VERSION instead of NAME-VERSION.mar. One that was built
    from the same inputs is left as it is. Raises ArchiveExists where the store holds other contents under the
    same name and version, unless `force`.
    """
    target = store / f"{source.spec.name}-{source.spec.version}{'' if directory else '.mar'}"
    pack.entry_time()  # a wrong SOURCE_DATE_EPOCH is told before anything is built
    with ThreadPoolExecutor(1) as aside, _told(target):
        given = _Given(weights, aside)
        if os.path.lexists(target) and not force:
            existing = _verified(target)
            if weights.file is not None:
                progress(f"reading {weights.file.name}")
            digest = _build_digest(source, weights, given)
            if existing.build is not None and existing.build.get("inputs_sha256") == digest:
                return Built(existing, was_there=True)
            raise pack.taken(target)
        try:
            store.mkdir(parents=True, exist_ok=True)
            # A file of no name: whether one can be written there is not only a matter of permissions.
            with tempfile.TemporaryFile(prefix=".torchmar-", dir=store):
                pass
        except OSError as error:
            raise ArchiveError(f"{store}: no folder to put archives in: {error.strerror}") from error
        # A folder takes what was exported over as it lies, which has to be on the store's filesystem.
        parent = store if directory else None
        with tempfile.TemporaryDirectory(prefix=".torchmar-build-", dir=parent) as temporary:
            return _build(source, weights, given, target, Path(temporary), force=force, progress=progress)


@contextmanager
def _told(target: Path) -> Iterator[None]:
    """Tell what the system refused while an archive was built, and how much room there is."""
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
) -> Built:
    artifact = build_artifact(source, weights, folder, progress)
    progress("packing")
    staging = folder / "staging" / source.spec.name
    contents = _stage(source, weights, artifact, given, staging)
    # The worker loads what is packed meanwhile: the same files, and none may change before both are done.
    with pack.beside(target) as hidden, ThreadPoolExecutor(1) as aside:
        packing = aside.submit(_pack, contents, hidden, target)
        progress("loading it in a worker")
        check = check_unpacked(staging, target)
        check.raise_for_failure()
        packed = packing.result()
        pack.require_unchanged(contents)
        try:
            pack.publish(hidden, target, force=force)
        except ArchiveExists:
            there = _of_another_build(target, packed)
            if there is None:
                raise
            return Built(there, was_there=True, check=check, notes=artifact.notes)
    return Built(replace(packed, path=target), was_there=False, check=check, notes=artifact.notes)


def _pack(contents: pack.Contents, hidden: Path, target: Path) -> Archive:
    files = pack.write(contents, hidden, target=target)
    return pack.read_back(hidden, files, contents)


def _of_another_build(target: Path, packed: Archive) -> Archive | None:
    """The archive that another process was faster to put there, if it is the same."""
    try:
        there = read(target)
    except ArchiveError:
        return None
    return there if there.contents_sha256 == packed.contents_sha256 else None


def _verified(target: Path) -> Archive:
    try:
        return verify(target)
    except ArchiveCorrupt as error:
        raise ArchiveCorrupt(f"{error}\n  (--force replaces it)") from error


class _Given:
    """The file that --weights names, if it does; read beside other work, since its digest is needed later."""

    def __init__(self, weights: Weights, aside: ThreadPoolExecutor) -> None:
        self.file = weights.file
        self._digested: Future[Source] | None = None
        if self.file is not None:
            with self._readable():
                source = Source.of(self.file)
                if self.file.is_file():  # a pipe would be waited for
                    self._digested = aside.submit(source.digested)

    def digested(self) -> Source | None:
        """The file with its digests. Raises WeightsUnavailable."""
        if self.file is not None and self._digested is None:
            raise WeightsUnavailable(f"--weights {self.file}: no file (or write `random`)")
        with self._readable():
            return None if self._digested is None else self._digested.result()

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            what = f"--weights {self.file}: {error.strerror} (or write `random`)"
            raise WeightsUnavailable(what) from None


def handlers_folder() -> Path:
    """handlers/ of the checkout, or of the installed package."""
    here = Path(__file__).resolve().parent
    for folder in (here / "handlers", here.parent / "handlers"):
        if (folder / "base.py").is_file():
            return folder
    raise ArchiveError(f"handlers/ was found neither in {here} nor beside it: reinstall torchmar")


def _build_digest(source: ModelSource, weights: Weights, given: _Given) -> str:
    digested = given.digested()
    inputs = inputs_digest(source, weights, None if digested is None else digested.sha256)
    digest = hashlib.sha256(f"{FORMAT} {__version__} {pack.entry_time()} {inputs}".encode())
    # In the order of their names: that of their paths would be another one in another folder.
    for path in [*sorted(handlers_folder().glob("*.py")), source.file]:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _stage(
    source: ModelSource, weights: Weights, artifact: Artifact, given: _Given, folder: Path
) -> pack.Contents:
    """Lay out everything but the digests in `folder`, as a worker finds it; the same, to be packed."""
    spec = source.spec
    handlers = folder / "handlers"
    handlers.mkdir(parents=True)
    for path in handlers_folder().glob("*.py"):
        shutil.copyfile(path, handlers / path.name)
    artifact_name = f"model{SUFFIX[artifact.runtime]}"
    if artifact.file == given.file:
        (folder / artifact_name).symlink_to(artifact.file.resolve())
        packed = given.digested()
    else:
        artifact.file.rename(folder / artifact_name)
        packed = Source.of(folder / artifact_name, linkable=True)
    assert packed is not None
    if spec.runtime == "onnx":
        (folder / "sitecustomize.py").write_text(SITECUSTOMIZE, encoding="utf-8")
    if spec.runtime == "eager":
        copy_code(source, folder / "model_source")
        if spec.requirements:
            text = "\n".join(spec.requirements) + "\n"
            (folder / "requirements.txt").write_text(text, encoding="utf-8")
    labels = source.labels()
    if labels is not None:
        _write_json(folder / LABELS, labels)
    config = _model_config(source, artifact_name, has_labels=labels is not None)
    (folder / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")

    (folder / "MAR-INF").mkdir()
    shutil.copyfile(source.file, folder / "MAR-INF" / SPEC_FILE)
    _write_json(folder / PARITY, {"runtime": artifact.runtime, **asdict(artifact.parity)})
    origin = "file" if weights.file is not None else weights.origin
    _write_json(
        folder / BUILD,
        {
            "torchmar": __version__,
            "inputs_sha256": _build_digest(source, weights, given),
            "weights": {"origin": origin, "seed": weights.seed},
            # What MAR-INF/model.yaml says otherwise: the options of the command line win over the file.
            "version": spec.version,
            "runtime": spec.runtime,
            "toolchain": toolchain(source),
        },
    )
    _stage_golden(source, artifact, folder)
    _add_manifest(source, folder)
    return pack.contents_of(folder, {artifact_name: packed})


def _stage_golden(source: ModelSource, artifact: Artifact, folder: Path) -> None:
    golden = source.golden_files()
    if any(path.name == Path(GOLDEN_ANSWERS).name for path in golden):
        raise ArchiveError(f"golden request {Path(GOLDEN_ANSWERS).name}: the archive needs that name itself")
    if golden:
        (folder / GOLDEN).mkdir()
        for path in golden:
            shutil.copyfile(path, folder / GOLDEN / path.name)
        top1 = {path.name: {"index": i} for path, i in zip(golden, artifact.golden_top1, strict=True)}
        _write_json(folder / GOLDEN_ANSWERS, top1)


def _model_config(source: ModelSource, artifact: str, *, has_labels: bool) -> dict[str, Any]:
    """TorchServe's model-config.yaml; the section `handler` is for our handlers alone."""
    spec, serving, image = source.spec, source.spec.serving, source.spec.input.image
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
    handler: dict[str, Any] = {
        "task": spec.task,
        "artifact": artifact,
        "threads": serving.threads,
        "workers": serving.max_workers or serving.min_workers,
        "topk": spec.output.topk,
        "scores": spec.output.scores,
        "image": {
            "size": image.size if isinstance(image.size, int) else list(image.size),
            "crop": None if image.crop is None else list(image.crop),
            "mean": list(image.mean),
            "std": list(image.std),
            "interpolation": image.interpolation,
        },
        "limits": {key: value for key, value in asdict(spec.input.limits).items() if value is not None},
    }
    if has_labels:
        handler["labels"] = LABELS
    if spec.runtime == "eager":
        handler["source"] = spec.source
    if spec.record is not None:
        handler["record"] = {key: value for key, value in asdict(spec.record).items() if value is not None}
    return {**config, "handler": handler}


def _write_json(path: Path, content: Any) -> None:
    text = json.dumps(content, indent=2, sort_keys=not isinstance(content, list), ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _add_manifest(source: ModelSource, folder: Path) -> None:
    """Through torch-model-archiver's Python API, which completes `folder` in its own format no-archive.

    Its `package_model` would first delete <tempdir>/<model name>, whoever it belongs to, and flatten
    folders; its zips hold the time of the build, in the order of the filesystem.
    """
    from model_archiver.model_archiver_config import ModelArchiverConfig
    from model_archiver.model_archiver_error import ModelArchiverError
    from model_archiver.model_packaging_utils import ModelExportUtils

    spec = source.spec
    requirements = folder / "requirements.txt"
    try:
        ModelExportUtils.validate_inputs(spec.name, str(folder.parent))
        text = ModelExportUtils.generate_manifest_json(
            ModelArchiverConfig(
                model_name=spec.name,
                version=spec.version,
                handler=HANDLER[spec.task],
                config_file=CONFIG,
                requirements_file=requirements.name if requirements.exists() else None,
            )
        )
        created = time.strftime("%d/%m/%Y %H:%M:%S", time.gmtime(pack.entry_time()))
        manifest = json.dumps({**json.loads(text), "createdOn": created}, indent=2, sort_keys=True) + "\n"
        # It writes into <export folder>/<model name>, which is `folder` itself: nothing is copied.
        ModelExportUtils.archive(str(folder.parent), folder.name, str(folder), manifest, "no-archive")
    except ModelArchiverError as error:
        raise ArchiveError(f"{spec.name}: torch-model-archiver refused it: {error}") from error
