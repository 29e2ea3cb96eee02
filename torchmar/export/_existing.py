"""Recognise existing model files, and copy them for an archive."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from pathlib import Path
from typing import Any

from ..errors import ExportError
from ..failures import first_line
from ..spec import ModelSource

SUFFIX = {"onnx": ".onnx", "torchscript": ".pt", "exported": ".pt2", "aoti": ".pt2", "pickled": ".pt"}

_LARGEST_ONNX = 2**31


def format_of(source: ModelSource, file: Path) -> str:
    """Return a file's format, one of those in handlers/runtimes.py. Raises ExportError."""
    name = source.spec.name
    if file.suffix == ".onnx":
        return "onnx"
    if not zipfile.is_zipfile(file):
        raise ExportError(
            f"{name}: give an .onnx, or what torch.jit.save, torch.export.save or AOTInductor wrote: "
            f"{file.name} is none of them"
        )
    inner = _names_in(source, file)
    if any("aotinductor" in each for each in inner):
        return "aoti"
    if any(each.startswith(("models/", "serialized_exported_program")) for each in inner):
        return "exported"
    if "constants.pkl" in inner:
        return "torchscript"
    if "data.pkl" not in inner:
        raise ExportError(f"{name}: {file.name} is a zip that torch did not write")
    return _of_torch_save(source, file)


def _names_in(source: ModelSource, file: Path) -> list[str]:
    """Return the names in one of torch's zips. Raises ExportError if it is damaged; torch skips checksums."""
    try:
        with zipfile.ZipFile(file) as opened:
            inner = [each.partition("/")[2] for each in opened.namelist()]
            damaged = opened.testzip()
    except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError, ValueError) as error:
        what = f"fetch {file.name} again: it is damaged: {first_line(error)}"
        raise ExportError(f"{source.spec.name}: {what}") from error
    if damaged is not None:
        what = f"fetch {file.name} again, or save it again: it is damaged: {damaged} has another checksum"
        raise ExportError(f"{source.spec.name}: {what}")
    return inner


def _of_torch_save(source: ModelSource, file: Path) -> str:
    """Return "pickled" for a whole module if model.yaml allows it. Raises ExportError otherwise."""
    import torch

    try:
        torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # it holds objects
        if source.spec.allow_pickle:
            return "pickled"
        raise ExportError(
            f"{source.spec.name}: save it by torch.jit.save or torch.export.save, or write `allow_pickle: "
            f"true`: {file.name} is a pickle with objects, and to load it is to run whatever it says, here "
            "and in every worker"
        ) from None
    raise ExportError(
        f"{source.spec.name}: write `source: file:function` for the module that {file.name} is the state "
        "dict of"
    )


def _require_arrays(source: ModelSource, model: Any, file: Path) -> None:
    """Raise ExportError if an ONNX model has outputs other than arrays."""
    for output in model.graph.output:
        kind = output.type.WhichOneof("value")
        if kind == "tensor_type":
            continue
        remedy, what = "let it give tensors alone", f"a {str(kind).removesuffix('_type')}"
        if kind == "sequence_type" and output.type.sequence_type.elem_type.WhichOneof("value") == "map_type":
            remedy, what = "export it with options={'zipmap': False}", "a ZipMap, a list of dicts"
        raise ExportError(f"{source.spec.name}: {remedy}: the output {output.name} of {file.name} is {what}")


def bring(source: ModelSource, part: str, file: Path, folder: Path) -> tuple[Path, str]:
    """Copy an artifact into `folder` under its part's name, ONNX in one file; returns it and its format.

    Raises ExportError.
    """
    kind = format_of(source, file)
    target = folder / f"{part}{SUFFIX[kind]}"
    if kind != "onnx":
        shutil.copyfile(file, target)
        return target, kind
    import onnx

    try:
        model = onnx.load(str(file), load_external_data=False)
        _require_arrays(source, model, file)
        external = [each for each in model.graph.initializer if each.data_location == each.EXTERNAL]
        if not external:
            shutil.copyfile(file, target)
            return target, kind
        onnx.load_external_data_for_model(model, str(file.parent))
        if model.ByteSize() >= _LARGEST_ONNX:
            raise ExportError(f"{file}: has {model.ByteSize():,} bytes; one file holds less than 2 GiB")
        onnx.save(model, str(target))
    except ExportError:
        raise
    except Exception as error:  # protobuf's, and missing files
        raise ExportError(f"{file}: is no ONNX model that can be read: {first_line(error)}") from error
    return target, kind
