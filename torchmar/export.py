"""nn.Module → artifact, and its parity with the module it came from.

torch is imported inside the functions that compute with it, never when this room is imported.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import io
import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from decimal import ROUND_CEILING, Context
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ExportError, ParityError, WeightsUnavailable
from .guests import handlers
from .mar import file_sha256
from .spec import ModelSource

if TYPE_CHECKING:
    import torch

Progress = Callable[[str], None]
"""Told what is about to be done, in a few words."""

PRETRAINED = "pretrained"
RANDOM = "random"


@dataclass(frozen=True)
class Weights:
    """Where the weights come from: `pretrained` (the source's own), `random`, or a state dict's file."""

    origin: str = PRETRAINED
    seed: int = 0

    @property
    def file(self) -> Path | None:
        """The state dict's file, where the weights come from one."""
        return None if self.origin in {PRETRAINED, RANDOM} else Path(self.origin)


@dataclass(frozen=True)
class Parity:
    """How closely the artifact answers as the module does.

    max_abs_error is the largest difference of any output, divided by the module's largest output where
    that exceeds 1; top1_agreement the share of inputs whose likeliest class is the same. Two significant
    digits: more would differ from machine to machine and say nothing.
    """

    inputs: int
    golden: int
    max_abs_error: float
    top1_agreement: float
    seed: int


@dataclass(frozen=True)
class Artifact:
    """What a runtime loads. `golden_top1` is the module's own answer for each golden request.

    `file` lies in the folder that it was built into, or is the weights' own: then leave it there.
    """

    file: Path
    runtime: str
    parity: Parity
    golden_top1: tuple[int, ...]


SUFFIX = {"onnx": ".onnx", "aoti": ".pt2", "eager": ".pth"}


def build_artifact(
    source: ModelSource, weights: Weights, folder: Path, progress: Progress = lambda _: None
) -> Artifact:
    """Load the module, export it into `folder`, and hold the artifact against the module.

    Raises WeightsUnavailable, ExportError, or ParityError where it falls short of `accept`.
    """
    require(source.spec.runtime)
    import torch

    progress("loading the module")
    module = load_module(source, weights)
    pictures = [*_seeded_pictures(source, weights.seed)]
    seeded = len(pictures)
    resize_and_crop, normalize = _reference_steps(source)
    pictures += [resize_and_crop(_open_rgb(path)) for path in source.golden_files()]
    pixels = torch.stack([_pixels(picture) for picture in pictures])
    progress(f"exporting to {source.spec.runtime}")
    file = folder / f"model{SUFFIX[source.spec.runtime]}"
    try:
        with redirect_stdout(io.StringIO()):
            if source.spec.runtime == "eager":
                if weights.file is not None and _is_state(module, weights.file):
                    file = weights.file
                else:
                    _export_eager(module, file)
            else:
                export = {"onnx": _export_onnx, "aoti": _export_aoti}[source.spec.runtime]
                export(_from_pixels(source, module), pixels[:2], file)
    except ExportError:
        raise
    except Exception as error:  # exporters raise anything
        raise _not_exported(source, error) from error
    progress("checking parity")
    # The source may seed the generator itself: a module that draws from it must not draw the same twice.
    torch.manual_seed(weights.seed)
    with redirect_stdout(io.StringIO()):
        expected = _run_module(module, torch.stack([normalize(picture) for picture in pictures]))
        try:
            found = _run_artifact(source, file, pixels)
        except ExportError:
            raise
        except Exception as error:  # a runtime refuses what an exporter wrote
            raise _not_exported(source, error) from error
    labels = source.labels()
    if labels is not None and len(labels) != expected.shape[1]:
        raise ExportError(
            f"{source.spec.name}: the module has {expected.shape[1]} classes, `labels: {source.spec.labels}` "
            f"names {len(labels)}; an empty last line counts"
        )
    parity = _compare(expected, found, golden=len(pictures) - seeded, seed=weights.seed)
    _accept(source, parity)
    top1 = tuple(int(row.argmax()) for row in expected[seeded:])
    return Artifact(file, source.spec.runtime, parity, top1)


def _not_exported(source: ModelSource, error: Exception) -> ExportError:
    what = f"{type(error).__name__}: {error}".strip()
    remedy = "runtime: eager serves any module"
    return ExportError(
        f"{source.spec.name}: could not be exported to {source.spec.runtime}: {what} ({remedy})"
    )


def require(runtime: str) -> None:
    """Raise ExportError where a package is missing that exporting to `runtime` needs."""
    needed = ["torch", "torchvision", *(["onnx", "onnxscript", "onnxruntime"] if runtime == "onnx" else [])]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(
            f"exporting needs {', '.join(missing)}, not installed here: pip install 'torchmar[export]'"
        )


def toolchain(source: ModelSource) -> dict[str, str]:
    """The versions of what shapes the artifact, for the archive's record."""
    names = ["numpy", "onnx", "onnxruntime", "onnxscript", "Pillow", "torch", "torchvision"]
    names += re.findall(r"^[A-Za-z0-9][\w.-]*", "\n".join(source.spec.requirements), re.MULTILINE)
    found: dict[str, str] = {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for name in sorted(set(names)):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


# -- the module ---------------------------------------------------------------------------------


def load_module(source: ModelSource, weights: Weights) -> torch.nn.Module:
    """The module that model.yaml's `source` builds, in eval mode, with its weights loaded."""
    import torch

    # A library's chatter does not belong on stdout, which may be JSON that a program reads.
    with _importable(source.directory), redirect_stdout(io.StringIO()):
        build = _source_function(source)
        if weights.origin != PRETRAINED:
            torch.manual_seed(weights.seed)
        module = _call_source(source, build, pretrained=weights.origin == PRETRAINED)
    if not isinstance(module, torch.nn.Module):
        found = type(module).__name__
        raise ExportError(f"{source.spec.source} returned {found}, expected a torch.nn.Module")
    if weights.file is not None:
        _load_state(module, weights.file)
    return module.eval().requires_grad_(False)


def _source_function(source: ModelSource) -> Callable[..., Any]:
    module_name, _, function = source.spec.source.partition(":")
    file = source.directory / f"{module_name}.py"
    try:
        module = importlib.import_module(f"model_source.{module_name}")
    except ImportError as error:
        raise ExportError(f"{file}: {error} ({_wanted(source)})") from error
    except Exception as error:
        raise ExportError(f"{file}: {type(error).__name__}: {error}") from error
    found = getattr(module, function, None)
    if not callable(found):
        raise ExportError(f"{file}: has no function {function}, which model.yaml's `source` names")
    result: Callable[..., Any] = found
    return result


@contextmanager
def _importable(directory: Path) -> Iterator[None]:
    """The same package as in an archive, so that `from . import …` works in both."""
    spec = importlib.util.spec_from_loader("model_source", loader=None, is_package=True)
    assert spec is not None
    package = importlib.util.module_from_spec(spec)
    package.__path__ = [str(directory)]
    previous = {name: m for name, m in sys.modules.items() if name.partition(".")[0] == "model_source"}
    for name in previous:
        del sys.modules[name]
    sys.modules["model_source"] = package
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "model_source"]:
            del sys.modules[name]
        sys.modules.update(previous)


def _wanted(source: ModelSource) -> str:
    return f"pip install what `requirements` lists: {' '.join(source.spec.requirements) or '(empty)'}"


def _call_source(source: ModelSource, build: Callable[..., Any], *, pretrained: bool) -> Any:
    called = f"{source.spec.source}(pretrained={pretrained})"
    try:
        return build(pretrained=pretrained)
    except ImportError as error:
        raise ExportError(f"{called}: {error} ({_wanted(source)})") from error
    except Exception as error:
        # URLError, timeouts, refused connections, a full disk
        if not (pretrained and isinstance(error, OSError)):
            raise ExportError(f"{called}: {type(error).__name__}: {error}") from error
        raise WeightsUnavailable(
            f"{source.spec.name}: its pretrained weights could not be fetched: {error}\n"
            "  This machine may not reach the hub they come from. Give them yourself:\n"
            "    --weights FILE            a state dict, saved by torch.save(module.state_dict(), FILE)\n"
            "    --weights random --seed 0 untrained, to try everything else"
        ) from error


def _load_state(module: torch.nn.Module, file: Path) -> None:
    import torch

    if not file.is_file():
        raise WeightsUnavailable(f"--weights {file}: no such file (or write `random`)")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle and zip errors of many kinds
        raise WeightsUnavailable(
            f"--weights {file}: not a state dict that torch.load(weights_only=True) reads: "
            f"{_first_lines(error, 1)} (save it by torch.save(module.state_dict(), FILE))"
        ) from error
    try:
        module.load_state_dict(state)
    except Exception as error:
        raise WeightsUnavailable(
            f"--weights {file}: does not fit the module: {_first_lines(error, 8)}"
        ) from error


def _first_lines(error: BaseException, most: int) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return "\n".join(lines[:most] + (["  …"] if len(lines) > most > 1 else []))


# -- exporters ----------------------------------------------------------------------------------


def _from_pixels(source: ModelSource, module: torch.nn.Module) -> torch.nn.Module:
    """The module behind torchvision's ToTensor and Normalize: uint8 (n, height, width, 3) → its output.

    Pixels travel to the model as bytes, and what computes the model normalises them too: with the operations
    of torchvision in their order, so that nothing differs.
    """
    import torch

    image = source.spec.input.image

    class FromPixels(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.module = module
            for name, values in (("mean", image.mean), ("std", image.std)):
                channels = torch.tensor(values, dtype=torch.float32)[:, None, None]
                self.register_buffer(name, channels, persistent=False)

        def forward(self, pixels: torch.Tensor) -> Any:
            scaled = pixels.permute(0, 3, 1, 2).to(torch.float32) / 255
            return self.module((scaled - self.mean) / self.std)

    return FromPixels().eval()


def _export_onnx(module: torch.nn.Module, example: torch.Tensor, file: Path) -> None:
    """ONNX with a free batch dimension, stripped of what differs from machine to machine."""
    import onnx
    import torch

    program = torch.onnx.export(
        module,
        (example,),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        input_names=["input"],
        output_names=["output"],
        verbose=False,
    )
    assert program is not None
    program.save(str(file))
    model = onnx.load(str(file))  # the exporter moves weights above 2 GB to a file of their own; see below
    # Nodes carry stack traces with this machine's paths: a leak, and other bytes in another folder.
    functions = [part for function in model.functions for part in (function, *function.node)]
    for part in _with_metadata(model.graph, [model, *functions]):
        del part.metadata_props[:]
        part.doc_string = ""
    if model.ByteSize() >= 2**31:
        raise ExportError(f"the ONNX model has {model.ByteSize():,} bytes; one file holds less than 2 GiB")
    for extra in file.parent.glob(f"{file.name}.data*"):
        extra.unlink()
    onnx.save(model, str(file))


def _with_metadata(graph: Any, found: list[Any]) -> list[Any]:
    """All parts of a graph, and of the graphs inside its nodes, that can carry metadata."""
    found += [graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _with_metadata(attribute.g, found)
    return found


def _export_aoti(module: torch.nn.Module, example: torch.Tensor, file: Path) -> None:
    """Compiled ahead of time for this kind of machine, with a free batch dimension."""
    import torch
    from torch._inductor import aoti_compile_and_package

    program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    aoti_compile_and_package(program, package_path=str(file))


def _export_eager(module: torch.nn.Module, file: Path) -> None:
    """The state dict alone; the archive carries the code that builds the module.

    Convolutions on a CPU are faster with their weights in channels_last order (ResNet-18: 33 ms against 41),
    and a worker that maps the file cannot reorder them without a copy of its own.
    """
    import torch

    torch.save({name: _in_fast_order(tensor) for name, tensor in module.state_dict().items()}, file)


def _in_fast_order(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _is_state(module: torch.nn.Module, file: Path) -> bool:
    """Whether a file is the module's state dict as `_export_eager` would write it, and nothing more.

    The same names and tensors, stored in the same order, in torch's zip format, which a worker can map
    into memory.
    """
    import torch

    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # a format of older releases, which cannot be mapped
        return False
    own = module.state_dict()
    if not isinstance(state, dict) or list(state) != list(own):
        return False
    needed = sum(value.untyped_storage().nbytes() for value in own.values())
    return file.stat().st_size < 1.1 * needed + 2**20 and all(
        isinstance(value, torch.Tensor)
        and value.dtype == own[name].dtype
        and value.stride() == _in_fast_order(value).stride()
        and torch.equal(value, own[name])
        for name, value in state.items()
    )


# -- parity -------------------------------------------------------------------------------------


def reference_transform(source: ModelSource) -> Callable[[Any], torch.Tensor]:
    """Torchvision's own preprocessing, that the handler's must equal: PIL image → float32 (3, H, W)."""
    resize_and_crop, normalize = _reference_steps(source)
    return lambda picture: normalize(resize_and_crop(picture))


def _reference_steps(source: ModelSource) -> tuple[Callable[[Any], Any], Callable[[Any], torch.Tensor]]:
    """PIL image → PIL image of the model's size; and that → float32 (3, H, W)."""
    from torchvision import transforms

    image = source.spec.input.image
    size = image.size if isinstance(image.size, int) else list(image.size)
    mode = transforms.InterpolationMode(image.interpolation)
    steps: list[Any] = [transforms.Resize(size, interpolation=mode)]
    if image.crop is not None:
        steps.append(transforms.CenterCrop(list(image.crop)))
    normalize = transforms.Compose([transforms.ToTensor(), transforms.Normalize(image.mean, image.std)])
    return transforms.Compose(steps), normalize


def _seeded_pictures(source: ModelSource, seed: int) -> Iterator[Any]:
    """Pictures of noise, of the size that the model takes."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(seed)
    for _ in range(4):
        yield Image.fromarray(generator.integers(0, 256, (*_input_size(source), 3), dtype=np.uint8))


def _pixels(picture: Any) -> torch.Tensor:
    """uint8 (height, width, 3)."""
    import numpy as np
    import torch

    return torch.from_numpy(np.array(picture))


def _open_rgb(path: Path) -> Any:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except Exception as error:  # Pillow's decoders raise OSError, ValueError, SyntaxError, struct.error, …
        raise ExportError(f"golden request {path}: {error}") from None


def _input_size(source: ModelSource) -> tuple[int, int]:
    image = source.spec.input.image
    if image.crop is not None:
        return image.crop
    assert not isinstance(image.size, int)  # the spec has seen to it
    return image.size


def _run_module(module: torch.nn.Module, inputs: torch.Tensor) -> Any:
    import torch

    try:
        with torch.inference_mode():
            output = module(inputs)
    except Exception as error:
        what = f"{type(error).__name__}: {_first_lines(error, 8)}"
        raise ExportError(f"the module fails on inputs of shape {list(inputs.shape)}: {what}") from error
    if not isinstance(output, torch.Tensor) or output.ndim != 2 or len(output) != len(inputs):
        found = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ExportError(f"the module gives {found}, expected logits of shape [{len(inputs)}, classes]")
    return output.numpy()


def _run_artifact(source: ModelSource, file: Path, inputs: torch.Tensor) -> Any:
    """The artifact's outputs by the runtime that a worker opens it with, in batches of 3: neither the size it
    was exported with, nor all at once.
    """
    import numpy as np
    import torch

    image = source.spec.input.image
    config = {
        "artifact": file.name,
        "source": source.spec.source,
        "image": {"mean": image.mean, "std": image.std},
        # A runtime of torch sets them for the process. With one, the parity is the same on every machine.
        "threads": 1 if source.spec.runtime == "onnx" else torch.get_num_threads(),
    }
    try:
        with _importable(source.directory):
            runtime = handlers("runtimes").open_runtime(config, file.parent, None)
    except Exception as error:  # the module's own code, and what the libraries raise
        what = f"{type(error).__name__}: {_first_lines(error, 8)}"
        if source.spec.runtime == "eager":
            what = f"{source.spec.source}(pretrained=False) does not build the module that it was: {what}"
        raise ExportError(f"a worker could not load the artifact: {what}") from error
    try:
        return np.concatenate([runtime(batch.numpy()) for batch in inputs.split(3)])
    except Exception as error:
        what = f"{type(error).__name__}: {_first_lines(error, 8)}"
        raise ExportError(f"the artifact fails on inputs of shape {list(inputs.shape)}: {what}") from error


def _compare(expected: Any, found: Any, *, golden: int, seed: int) -> Parity:
    import numpy as np

    if expected.shape != found.shape:
        raise ParityError(f"the artifact gives {list(found.shape)}, the module {list(expected.shape)}")
    scale = max(1.0, float(np.abs(expected).max()))
    error = float(np.abs(expected - found).max()) / scale
    agreement = float((expected.argmax(-1) == found.argmax(-1)).mean())
    return Parity(len(expected), golden, _round(error), agreement, seed)


def _round(value: float) -> float:
    """Upwards to two significant digits."""
    if not math.isfinite(value):
        return value
    return float(Context(prec=2, rounding=ROUND_CEILING).create_decimal(repr(value)))


def _accept(source: ModelSource, parity: Parity) -> None:
    accept = source.spec.accept
    wrong = []
    if not parity.max_abs_error <= accept.max_abs_error:  # also refuses nan
        wrong.append(f"max_abs_error {parity.max_abs_error:g} exceeds {accept.max_abs_error:g}")
    if parity.top1_agreement < accept.top1_agreement:
        wrong.append(f"top1_agreement {parity.top1_agreement:g} is below {accept.top1_agreement:g}")
    if wrong:
        raise ParityError(
            f"{source.spec.name}: the {source.spec.runtime} artifact does not answer as the module does: "
            f"{'; '.join(wrong)} (measured on {parity.inputs} inputs; see `accept` in model.yaml)"
        )


# -- what an artifact is made of ----------------------------------------------------------------


def inputs_digest(source: ModelSource, weights: Weights, weights_sha256: str | None = None) -> str:
    """SHA-256 over what shapes the archive: whatever changes it changes the archive's digest.

    `weights_sha256` is that of the weights' file, where it is known; else the file is read.

    Every file of the model's folder, the spec with its overrides, the labels, the weights' file, and the
    versions of the toolchain. It needs no torch, so that an archive that is up to date is recognised at once.
    """
    digest = hashlib.sha256()
    facts = {
        "spec": asdict(source.spec),
        "weights": weights.origin if weights.file is None else weights_sha256 or _file_digest(weights.file),
        "seed": weights.seed,
        "toolchain": toolchain(source),
        "labels": source.labels(),
    }
    digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
    for path in source.all_files():
        name = path.relative_to(source.directory).as_posix()
        digest.update(f"\n{name} {_file_digest(path)}".encode())
    return digest.hexdigest()


def _file_digest(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise WeightsUnavailable(f"--weights {path}: {error.strerror} (or write `random`)") from None
