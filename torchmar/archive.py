"""ModelSpec + artifact → .mar.

Reproducible: building twice from the same inputs with the same versions on the same kind of machine gives the
same bytes. The zip has its entries sorted, one time for all (SOURCE_DATE_EPOCH, or 1980), one mode, and
nothing deflated: weights do not shrink, and TorchServe unpacks faster.

What torchmar adds besides the model is told in mar.py.
"""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
import shutil
import tempfile
import time
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from . import __version__
from .errors import ArchiveCorrupt, ArchiveError, ArchiveExists
from .export import Artifact, Progress, Weights, build_artifact, inputs_digest, toolchain
from .mar import BUILD, DIGESTS, GOLDEN, GOLDEN_ANSWERS, MANIFEST, PARITY, Archive, FileEntry, read, verify
from .spec import SPEC_FILE, ModelSource
from .worker import Check, check_archive

CONFIG = "model-config.yaml"
LABELS = "labels.json"
HANDLER = {"image_classification": "handlers.image_classifier"}

_SITECUSTOMIZE = '''\
"""Python runs this first in every worker of this archive, see handlers/lazy_torch.py."""

from handlers.lazy_torch import install, run_shadowed_sitecustomize

install()
run_shadowed_sitecustomize(__file__)
'''


@dataclass(frozen=True)
class Built:
    """What `build` did: an archive, and whether it was there already."""

    archive: Archive
    was_there: bool
    check: Check | None = None


# -- build --------------------------------------------------------------------------------------


def build(
    source: ModelSource,
    store: Path,
    *,
    weights: Weights = Weights(),  # noqa: B008 (frozen)
    force: bool = False,
    progress: Progress = lambda _: None,
) -> Built:
    """Road (a): export, check parity, pack, load it once in a worker, and move it into `store`.

    An archive that was built from the same inputs is left as it is. Raises ArchiveExists where the store
    holds other contents under the same name and version, unless `force`.
    """
    target = store / f"{source.spec.name}-{source.spec.version}.mar"
    digest = _build_digest(source, weights)
    if target.exists() and not force:
        existing = _verified(target)
        if existing.build is not None and existing.build.get("inputs_sha256") == digest:
            return Built(existing, was_there=True)
        raise _exists(target)
    try:
        store.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArchiveError(f"{store}: no folder to put archives in: {error}") from error
    with tempfile.TemporaryDirectory(prefix="torchmar-build-") as temporary:
        folder = Path(temporary)
        artifact = build_artifact(source, weights, folder, progress)
        progress("packing")
        staging = folder / "staging"
        _stage(source, weights, artifact, digest, staging)
        packed = _pack(source, staging, folder)
        progress("loading it in a worker")
        check = check_archive(packed)
        check.raise_for_failure()
        try:
            _move_into_store(packed, target, force=force)
        except ArchiveExists:
            if not filecmp.cmp(packed, target, shallow=False):
                raise
            return Built(read(target), was_there=True, check=check)  # another process was faster
    return Built(read(target), was_there=False, check=check)


def _exists(target: Path) -> ArchiveExists:
    return ArchiveExists(
        f"{target} is there already, built from something else. A served version should not change: "
        "raise `version` in model.yaml (or give --version), or --force to replace it"
    )


def _verified(target: Path) -> Archive:
    try:
        return verify(target)
    except ArchiveCorrupt as error:
        raise ArchiveCorrupt(f"{error}\n  (--force replaces it)") from error


def handlers_folder() -> Path:
    """handlers/ of the checkout, or of the installed package."""
    here = Path(__file__).resolve().parent
    for folder in (here / "handlers", here.parent / "handlers"):
        if (folder / "base.py").is_file():
            return folder
    raise ArchiveError(f"handlers/ was found neither in {here} nor beside it: reinstall torchmar")


def _build_digest(source: ModelSource, weights: Weights) -> str:
    digest = hashlib.sha256(f"{__version__} {_created()} {inputs_digest(source, weights)}".encode())
    # In the order of their names: that of their paths would be another one in another folder.
    for path in [*sorted(handlers_folder().glob("*.py")), source.file, *_builders()]:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _builders() -> list[Path]:
    """The code that shapes an archive, besides the handlers."""
    here = Path(__file__).resolve().parent
    return [here / name for name in ("archive.py", "export.py", "mar.py", "spec.py")]


def _stage(source: ModelSource, weights: Weights, artifact: Artifact, digest: str, folder: Path) -> None:
    """Lay out everything but the manifest and the digests."""
    spec = source.spec
    handlers = folder / "handlers"
    handlers.mkdir(parents=True)
    for path in handlers_folder().glob("*.py"):
        shutil.copyfile(path, handlers / path.name)
    artifact_name = artifact.file.name
    shutil.move(artifact.file, folder / artifact_name)
    if spec.runtime == "onnx":
        (folder / "sitecustomize.py").write_text(_SITECUSTOMIZE, encoding="utf-8")
    if spec.runtime == "eager":
        code = folder / "model_source"
        code.mkdir()
        (code / "__init__.py").write_text("", encoding="utf-8")
        for path in source.code_files():
            shutil.copyfile(path, code / path.name)
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
            "inputs_sha256": digest,
            "weights": {"origin": origin, "seed": weights.seed},
            # What MAR-INF/model.yaml says otherwise: the options of the command line win over the file.
            "version": spec.version,
            "runtime": spec.runtime,
            "toolchain": toolchain(source),
        },
    )
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
    return {**config, "handler": handler}


def _write_json(path: Path, content: Any) -> None:
    text = json.dumps(content, indent=2, sort_keys=not isinstance(content, list), ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


# -- pack ---------------------------------------------------------------------------------------


def _pack(source: ModelSource, staging: Path, folder: Path) -> Path:
    """Through torch-model-archiver's Python API, then normalised.

    Its `package_model` would first delete <tempdir>/<model name>, whoever it belongs to, and flatten
    folders; so the manifest and the zip are asked for, and the staging is ours.
    """
    from model_archiver.model_archiver_config import ModelArchiverConfig
    from model_archiver.model_archiver_error import ModelArchiverError
    from model_archiver.model_packaging_utils import ModelExportUtils

    spec = source.spec
    raw_folder = folder / "raw"
    raw_folder.mkdir()
    requirements = staging / "requirements.txt"
    try:
        ModelExportUtils.validate_inputs(spec.name, str(raw_folder))
        manifest = ModelExportUtils.generate_manifest_json(
            ModelArchiverConfig(
                model_name=spec.name,
                version=spec.version,
                handler=HANDLER[spec.task],
                config_file=CONFIG,
                requirements_file="requirements.txt" if requirements.exists() else None,
            )
        )
        # Its own entry for the manifest has the time of the build: the normal form below writes ours.
        ModelExportUtils.archive(str(raw_folder), spec.name, str(staging), manifest, "zip-store")
    except ModelArchiverError as error:
        raise ArchiveError(f"{spec.name}: torch-model-archiver refused it: {error}") from error
    packed = folder / f"{spec.name}-{spec.version}.mar"
    normalise(raw_folder / f"{spec.name}.mar", packed)
    return packed


def normalise(raw: Path, target: Path) -> None:
    """Rewrite a .mar in normal form, with digests: same contents, same bytes."""
    created = _created()
    date_time = time.gmtime(created)[:6]
    with zipfile.ZipFile(raw) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as sink:
        entries: dict[str, FileEntry] = {}
        for name in sorted(set(source.namelist())):
            if name.endswith("/"):
                continue
            if name == MANIFEST:
                manifest = json.loads(source.read(name))
                manifest["createdOn"] = time.strftime("%d/%m/%Y %H:%M:%S", time.gmtime(created))
                entries[name] = _write_entry(sink, name, _json_bytes(manifest), date_time)
            else:
                with source.open(name) as content:
                    entries[name] = _write_entry(sink, name, content, date_time)
        listed = {e.name: {"sha256": e.sha256, "size": e.size} for e in entries.values()}
        digests = {"algorithm": "sha256", "files": listed}
        _write_entry(sink, DIGESTS, _json_bytes(digests), date_time)


def _created() -> int:
    """Seconds since 1970 that every entry of the zip carries; zip knows the years from 1980 to 2107."""
    earliest, latest = 315_532_800, 4_354_819_199
    text = os.environ.get("SOURCE_DATE_EPOCH", str(earliest))
    if not text.isascii() or not text.isdigit() or len(text) > 10 or int(text) > latest:
        raise ArchiveError(f"SOURCE_DATE_EPOCH is {text!r}, expected seconds since 1970, at most {latest}")
    return max(int(text), earliest)


def _json_bytes(content: Any) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def _write_entry(sink: zipfile.ZipFile, name: str, content: Any, date_time: Any) -> FileEntry:
    info = zipfile.ZipInfo(name, date_time)
    info.create_system = 3  # Unix, wherever it is built
    info.external_attr = 0o100644 << 16
    digest, size = hashlib.sha256(), 0
    # TorchServe's zip reader refuses stored entries whose size follows their data: zipfile seeks back.
    with sink.open(info, "w", force_zip64=True) as entry:
        for block in [content] if isinstance(content, bytes) else iter(lambda: content.read(1 << 20), b""):
            digest.update(block)
            size += len(block)
            entry.write(block)
    return FileEntry(name, size, digest.hexdigest())


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _move_into_store(packed: Path, target: Path, *, force: bool) -> None:
    """Beside the target, to disk, and only then under its name; never over another one unasked."""
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        shutil.copyfile(packed, beside)
        _to_disk(beside)
        if force:
            beside.replace(target)
        else:
            try:
                os.link(beside, target)  # fails where the name is taken: no gap between asking and doing
            except FileExistsError:
                raise _exists(target) from None
            except OSError:  # no hard links on this filesystem
                if target.exists():
                    raise _exists(target) from None
                beside.replace(target)
        _to_disk(target.parent)
    except OSError as error:
        raise ArchiveError(f"{target}: could not be written: {error}") from error
    finally:
        beside.unlink(missing_ok=True)
