"""Load a file of weights into a module, in the many forms that people have.

Training scripts save more than a state dict, and wrappers put words before its names. The code takes what can
have only one meaning, and reports what it did. It executes nothing in a file.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import WeightsUnavailable
from ..failures import first_line

if TYPE_CHECKING:
    import torch

Note = Callable[[str], None]
"""Receives a sentence on what was done unasked."""

_SAVE = "torch.save(module.state_dict(), FILE)"
_WRAPPERS = ("_orig_mod", "module")  # of torch.compile, and of DataParallel
_DEEPEST = 3
_OPTIONAL = "num_batches_tracked"  # BatchNorm's counter during training; older releases had none


def load_weights(module: torch.nn.Module, file: Path, note: Note = lambda _: None) -> None:
    """Load a file's weights into a module, all of them and no others.

    Raises WeightsUnavailable.
    """
    own = module.state_dict()
    state = _chosen(own, _content(file), file, note)
    _require_kinds(own, state, file)
    try:
        module.load_state_dict(state)
    except Exception as error:
        raise _unfit(file, first_line(error)) from error


def _unfit(file: Path, what: str) -> WeightsUnavailable:
    return WeightsUnavailable(
        f"--weights {file}: give the weights of the model that `source` builds, or change it: {what}"
    )


def _unreadable(file: Path, remedy: str, what: str) -> WeightsUnavailable:
    return WeightsUnavailable(f"--weights {file}: {remedy}: {what}")


# -- the file -----------------------------------------------------------------------------------


def _content(file: Path) -> Any:
    """Return what was saved. Raises WeightsUnavailable, which says what the file is instead."""
    if file.is_dir():
        inside = sorted(path.name for path in file.iterdir() if path.is_file())[:5]
        raise _unreadable(file, "name the file in it", f"a folder, with {', '.join(inside) or 'no files'}")
    if not file.is_file():
        remedy = "download it" if re.match("https?:", str(file)) else "write `random`, or an existing file"
        raise _unreadable(file, remedy, "no such file")
    try:
        with file.open("rb") as opened:
            head = opened.read(512)
    except OSError as error:
        raise _unreadable(file, "make it readable", f"{error.strerror}") from None
    if file.suffix == ".safetensors" or head[8:10] == b'{"':
        return _safetensors(file)
    _require_torchs(file, head)
    import torch

    try:
        with _without_objects(file):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle and zip errors of many kinds
        raise _not_loaded(file, str(error)) from error


def _not_loaded(file: Path, message: str) -> WeightsUnavailable:
    """Return the error for a file that torch.load refused with a long `message`."""
    unknown = re.search(r"GLOBAL (\S+)", message)
    if unknown is not None:
        what = f"it holds objects of {unknown[1]}, and to read those is to run what they say"
        return _unreadable(file, f"save the state dict alone, by {_SAVE}", what)
    if any(word in message for word in ("EOF", "Ran out of input", "failed reading", "corrupted")):
        return _unreadable(file, _FETCH, "it is incomplete or damaged")
    why = re.search(r"WeightsUnpickler error:\s*(\S.*)", message)
    first = why[1] if why is not None else message.strip().partition("\n")[0]
    what = f"torch.load(weights_only=True) cannot read it: {first[:200]}"
    return _unreadable(file, f"save the state dict by {_SAVE}", what)


_FETCH = "fetch it again"
_KINDS = (
    (b"", _FETCH, "it is empty"),
    (b"version https://git-lfs", "run `git lfs pull`", "it is a pointer of Git LFS"),
    (b"<", _FETCH, "it is a web page"),
    (b"\x89HDF", f"convert it to PyTorch and save it by {_SAVE}", "it is HDF5, as Keras saves weights"),
    (b"GGUF", f"convert it to PyTorch and save it by {_SAVE}", "it is GGUF"),
    (b"\x1f\x8b", "unpack it", "it is a gzip file"),
    (b"\x93NUMPY", f"save it by {_SAVE}", "it is an array of NumPy"),
)


def _require_torchs(file: Path, head: bytes) -> None:
    """Raise WeightsUnavailable for a known other format, or for an incomplete file."""
    for start, remedy, what in _KINDS:
        if head.startswith(start) if start else not head.strip(b"\0"):
            raise _unreadable(file, remedy, what)
    if file.suffix == ".onnx":
        what = "it is an ONNX graph, whose weights have other names"
        raise _unreadable(file, f"give what it was exported from, saved by {_SAVE}", what)
    if not head.startswith(b"PK"):
        return  # torch's format before 1.6
    if not zipfile.is_zipfile(file):
        raise _unreadable(file, _FETCH, "it is incomplete")
    try:
        with zipfile.ZipFile(file) as opened:
            names = [name.partition("/")[2] for name in opened.namelist()]
            damaged = opened.testzip()  # torch.load does not check the checksums
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise _unreadable(file, _FETCH, f"it is damaged: {first_line(error)}") from error
    if "constants.pkl" in names:
        remedy = "save its state dict alone, by torch.save(torch.jit.load(OLD).state_dict(), FILE)"
        raise _unreadable(file, remedy, "it is a TorchScript archive")
    if "data.pkl" not in names:
        raise _unreadable(
            file, f"save the state dict by {_SAVE}", "it is a zip that torch.save did not write"
        )
    if damaged is not None:
        raise _unreadable(
            file, f"{_FETCH}, or save it again", f"it is damaged: {damaged} has another checksum"
        )


class _StandIn:
    """Replaces an object of any class beside the weights; it keeps and runs nothing."""

    def __new__(cls, *_: Any, **__: Any) -> _StandIn:
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...

    def __repr__(self) -> str:
        return type(self).__name__


def _without_objects(file: Path) -> AbstractContextManager[None]:
    """Let torch.load put stand-ins for the options and figures that training scripts save too."""
    import torch

    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except Exception:  # torch's format before 1.6, or none: torch.load will report it
        names = []
    kinds = [(type(name.rpartition(".")[2], (_StandIn,), {}), name) for name in names]
    return torch.serialization.safe_globals(kinds)  # type: ignore[no-any-return]


def _safetensors(file: Path) -> Any:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise _unreadable(file, "pip install safetensors", "it is in the format of safetensors") from None
    try:
        return load_file(file)
    except Exception as error:
        raise _unreadable(file, _FETCH, f"no safetensors file: {first_line(error)}") from error


# -- what is in it ------------------------------------------------------------------------------

State = Mapping[str, Any]


def _chosen(own: State, content: Any, file: Path, note: Note) -> State:
    """Return the state dict in a checkpoint under the module's own names. Raises WeightsUnavailable."""
    states = dict(_states("", content))
    if not states:
        raise _unreadable(file, f"save the state dict by {_SAVE}", _described(content))
    fits = [(where, fit) for where, state in states.items() for fit in _fits(own, state)]
    if len(fits) > 1:
        found = ", ".join(" ".join(filter(None, (where, fit.how))) for where, fit in fits)
        inside = "".join(f"[{key!r}]" for key in fits[0][0].split(".") if key)
        remedy = f"save the right one alone, as by torch.save(torch.load({file.name!r}){inside}, FILE)"
        raise _unreadable(file, remedy, f"several fit the module: {found}")
    if not fits:
        where, state = next(iter(states.items()))
        if len(states) > 1:
            raise _unfit(file, f"none of {', '.join(states)} has its names")
        raise _unfit(file, (f"in {where}, " if where else "") + _difference(own, state))
    [(where, fit)] = fits
    done = [f"taken from {where!r}"] if where else []
    done += [fit.how] if fit.how else []
    if done:
        note(f"weights of {file.name}: {', '.join(done)}")
    return fit.state


def _states(where: str, content: Any, depth: int = 0) -> Iterator[tuple[str, State]]:
    """Yield every state dict in a checkpoint, with the keys that lead to it."""
    if not isinstance(content, Mapping) or depth > _DEEPEST or _is_optimizers(content):
        return
    state = {key: value for key, value in content.items() if _is_entry(key, value)}
    if len(state) == len(content) > 0:
        yield where, content  # unchanged: it records each layer's release
    elif state:
        yield where, state
    for key, value in content.items():
        yield from _states(f"{where}.{key}" if where else str(key), value, depth + 1)


def _is_entry(key: Any, value: Any) -> bool:
    import torch

    return isinstance(key, str) and (isinstance(value, torch.Tensor) or key.endswith("_extra_state"))


def _described(content: Any) -> str:
    """Describe a checkpoint without weights."""
    kind = type(content).__name__
    if isinstance(content, _StandIn):
        return f"it holds an object of the class {kind}, and to read that is to run what it says"
    if not isinstance(content, Mapping):
        return f"it holds a {kind}"
    if _is_optimizers(content):
        return "it is the state of an optimizer"
    parts = [f"{str(key)[:40]} ({type(value).__name__})" for key, value in list(content.items())[:5]]
    return f"no weights are in it, but {', '.join(parts) or 'nothing'}"


def _is_optimizers(content: Mapping[Any, Any]) -> bool:
    return content.keys() >= {"state", "param_groups"}


@dataclass(frozen=True)
class _Fit:
    """A state dict under the module's own names, and the changes to its names in words."""

    state: State
    how: str


def _fits(own: State, state: State) -> list[_Fit]:
    """Return the ways in which a state dict's names match the module's."""
    needed = [name for name in own if not name.endswith(_OPTIONAL)] or list(own)
    if not needed:
        return [_Fit(state, "")] if not state else []
    for dropped in ((), _WRAPPERS[:1], _WRAPPERS):
        names = {_without(name, dropped): name for name in state}
        if len(names) < len(state):
            continue
        for outer in _outer_names(needed):
            fits = [
                _Fit(_under(names, state, prefix, outer), _how(dropped, prefix, outer))
                for prefix in _prefixes(needed[0].removeprefix(outer), names)
                if all(prefix + name.removeprefix(outer) in names for name in needed)
                and all(outer + name.removeprefix(prefix) in own for name in names if name.startswith(prefix))
            ]
            if fits:
                return fits
    return []


def _without(name: str, dropped: Sequence[str]) -> str:
    return ".".join(part for part in name.split(".") if part not in dropped)


def _outer_names(names: Sequence[str]) -> Iterator[str]:
    """Yield what all names begin with, word by word: a module inside a wrapper that adds nothing else."""
    outer = ""
    while all(name.startswith(outer) for name in names):
        yield outer
        word, dot, _ = names[0].removeprefix(outer).partition(".")
        if not dot:
            return
        outer += f"{word}."


def _prefixes(name: str, names: Iterable[str]) -> list[str]:
    """Return what stands before a name, in whole words."""
    return [longer.removesuffix(name) for longer in names if longer == name or longer.endswith(f".{name}")]


def _under(names: Mapping[str, str], state: State, prefix: str, outer: str) -> State:
    renamed = {
        outer + name.removeprefix(prefix): state[key]
        for name, key in names.items()
        if name.startswith(prefix)
    }
    # The dict itself records each layer's release.
    return state if renamed.keys() == state.keys() else renamed


def _how(dropped: Sequence[str], prefix: str, outer: str) -> str:
    without = [f"{word}." for word in dropped] + ([prefix] if prefix else [])
    words = [f"names without {' and '.join(map(repr, without))}"] if without else []
    return ", ".join(words + ([f"names with {outer!r} before them"] if outer else []))


def _difference(own: State, state: State) -> str:
    missing = [name for name in own if name not in state]
    other = [name for name in state if name not in own]
    parts = []
    if missing:
        parts.append(f"{len(missing)} of its {len(own)} names are missing, as {missing[0][:80]!r}")
    if other:
        parts.append(f"{len(other)} are not its own, as {other[0][:80]!r}")
    return "; ".join(parts)


_FLOATS = ("float64", "float32", "float16", "bfloat16")


def _require_kinds(own: State, state: State, file: Path) -> None:
    """Raise WeightsUnavailable if shapes differ, or if numbers would silently change."""
    import torch
    from torch.nn.parameter import is_lazy

    wrong = []
    shared: dict[Any, str] = {}
    for name, tensor in state.items():
        mine = own.get(name)
        if not isinstance(tensor, torch.Tensor) or not isinstance(mine, torch.Tensor) or is_lazy(mine):
            continue
        if tensor.shape != mine.shape:
            wrong.append(f"{name!r} is {list(tensor.shape)} in it, {list(mine.shape)} in the module")
        elif not name.endswith(_OPTIONAL) and not _converts(tensor.dtype, mine.dtype):
            wrong.append(f"{name!r} is {_kind(tensor.dtype)} in it, {_kind(mine.dtype)} in the module")
        elif name != (first := shared.setdefault(_memory(mine), name)) and _differ(tensor, state.get(first)):
            wrong.append(f"{name!r} and {first!r} differ in it, and are one in the module")
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise _unfit(file, wrong[0] + more)


def _converts(given: torch.dtype, mine: torch.dtype) -> bool:
    """Return whether numbers keep their meaning; quantised ones, integers or of 8 bits, do not."""
    if given == mine or (mine.is_floating_point and _kind(given) in _FLOATS):
        return True
    return not any(kind.is_floating_point or kind.is_complex for kind in (given, mine))


def _memory(tensor: torch.Tensor) -> Any:
    """Return the place of its numbers, equal for tied tensors; the tensor's identity if unknown."""
    import torch

    if tensor.layout != torch.strided or tensor.is_meta or not tensor.numel():
        return id(tensor)
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def _differ(one: torch.Tensor, other: Any) -> bool:
    return other is not None and not one.to(other.dtype).equal(other)


def _kind(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
