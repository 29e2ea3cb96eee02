"""A model's own code, run in this process: as a guest, who leaves nothing behind and ends nothing."""

from __future__ import annotations

import importlib.util
import io
import os
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from pathlib import Path
from types import ModuleType

from ..spec import ModelSource

PACKAGE = "model_source"
"""What a model's folder is imported as, here and in an archive."""

FAILURES = (Exception, SystemExit)
"""What a guest's code may end in. SystemExit is no Exception, and must not end torchmar."""


class Guest:
    """The code of a model's folder, as the package that it is in an archive.

    While it is `running`, `from . import …` works, nobody answers input(), and the command line holds only
    `arguments`. What it prints does not get to stdout, which may be JSON that a program reads. What it
    changes of this process is put back: the `layers` of one model must not be those of the next.
    """

    def __init__(self, directory: Path, arguments: Sequence[str] = ()) -> None:
        self.directory = directory.absolute()
        self._argv = [str(self.directory), *arguments]
        self._modules: dict[str, ModuleType] = {}
        self._path: list[str] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let it run; the first time this imports the package."""
        modules, path, here = dict(sys.modules), list(sys.path), Path.cwd()
        argv, stdin = sys.argv, sys.stdin
        _forget(name for name in modules if _in_package(name))
        sys.modules.update(self._modules)
        sys.path += self._path
        sys.argv, sys.stdin = self._argv, io.StringIO()
        try:
            with _put_back(), _without_stdout():
                if PACKAGE not in sys.modules:
                    _import_package(self.directory)
                yield
        finally:
            own = [name for name in imported_from(self.directory) if name.partition(".")[0] not in modules]
            own += [name for name in sys.modules if _in_package(name)]
            self._modules = {name: sys.modules[name] for name in own}
            self._path = [entry for entry in sys.path if entry not in path]
            _forget(own)
            sys.modules.update({name: module for name, module in modules.items() if _in_package(name)})
            sys.path[:], sys.argv, sys.stdin = path, argv, stdin
            os.chdir(here)


@contextmanager
def _put_back() -> Iterator[None]:
    """Settings of this process, as training scripts change them: the next model finds them as they were."""
    import torch

    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    environment, umask = dict(os.environ), os.umask(0o077)
    os.umask(umask)
    try:
        with warnings.catch_warnings(), torch.set_grad_enabled(torch.is_grad_enabled()):
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_default_device(None if device.type == "cpu" else device)
        os.umask(umask)
        for name in {*os.environ} - {*environment}:
            del os.environ[name]
        os.environ.update({name: was for name, was in environment.items() if os.environ.get(name) != was})


@contextmanager
def _without_stdout() -> Iterator[None]:
    """Nothing gets to stdout, neither what Python prints nor what libraries and programs write there."""
    with redirect_stdout(io.StringIO()), ExitStack() as stack:
        with suppress(OSError):  # there may be none
            kept = os.dup(1)
            stack.callback(os.close, kept)
            _flush_stdout()
            with Path(os.devnull).open("w") as nothing:
                os.dup2(nothing.fileno(), 1)
            stack.callback(os.dup2, kept, 1)
            stack.callback(_flush_stdout)
        yield


def _flush_stdout() -> None:
    if sys.__stdout__ is not None:
        with suppress(OSError, ValueError):  # it is closed
            sys.__stdout__.flush()


def imported_from(directory: Path) -> list[str]:
    """The modules that were imported from a folder by their plain names, and not as parts of the package."""
    found = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and not _in_package(name) and Path(file).is_relative_to(directory):
            inner = Path(file).relative_to(directory).parts
            if not any(part.startswith(".") or part == "site-packages" for part in inner):
                found.append(name)
    return found


def _in_package(name: str) -> bool:
    return name.partition(".")[0] == PACKAGE


def _forget(names: Iterable[str]) -> None:
    for name in names:
        sys.modules.pop(name, None)


def _import_package(directory: Path) -> None:
    """The folder as a package, with its __init__.py where it has one, as an archive would."""
    init = directory / "__init__.py"
    if init.is_file():
        spec = importlib.util.spec_from_file_location(
            PACKAGE, init, submodule_search_locations=[str(directory)]
        )
    else:
        spec = importlib.util.spec_from_loader(PACKAGE, loader=None, is_package=True)
    assert spec is not None
    package: ModuleType = importlib.util.module_from_spec(spec)
    package.__path__ = [str(directory)]
    sys.modules[PACKAGE] = package
    if spec.loader is not None:
        spec.loader.exec_module(package)


# -- what it ended in -----------------------------------------------------------------------------


def explained(source: ModelSource, error: BaseException, directory: Path | None = None) -> str:
    """Why the code of a model's folder failed, in one sentence that begins with what to do about it.

    `directory` is where it ran, if that is a copy.
    """
    directory = (directory or source.directory).absolute()
    file, line = own_line(error, directory)
    place = "" if file is None else f"{file.as_posix()} line {line}: "
    what = f"{place}{named(error)}"
    if isinstance(error, SystemExit):
        remedy = "move what ends the program (sys.exit, argparse) below `if __name__ == '__main__':`"
        return f"{remedy}: {what}"
    if isinstance(error, EOFError) and "reading a line" in str(error):
        return f"leave out what asks at the terminal: {what}"
    if isinstance(error, ImportError):
        return f"{_import_remedy(source, error, directory, file)}: {place}{error}"
    if isinstance(error, FileNotFoundError) and isinstance(error.filename, str):
        return f"{_file_remedy(source, error.filename, directory)}{what}"
    return what


def named(error: BaseException) -> str:
    """An error's class, and the first line of what it says."""
    return ": ".join(filter(None, (type(error).__name__, first_line(error))))


def first_line(error: BaseException) -> str:
    """The first line of what an error says; "" where it says nothing."""
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    lines = said.strip().splitlines() or [""]
    return lines[0][:500] + (" …" if len(lines) > 1 else "")


def own_line(error: BaseException, directory: Path) -> tuple[Path | None, int | None]:
    """The file of the model's folder, relative to it, and the line in it, where an error came up."""
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename is not None:
        frames.append((error.filename, error.lineno))
    for name, line in reversed(frames):
        if Path(name).is_relative_to(directory):
            return Path(name).relative_to(directory), line
    return None, None


def _import_remedy(source: ModelSource, error: ImportError, directory: Path, file: Path | None) -> str:
    name = error.name or ""
    top, _, rest = name.partition(".")
    if top == PACKAGE:
        if isinstance(error, ModuleNotFoundError):
            return f"put {rest.replace('.', '/')}.py into {source.directory}"
        return "import what is there"
    own = Path() if file is None else file.parent
    for folder, dots in ((own, "."), (Path(), "." * (len(own.parts) + 1))):
        if top and _is_module(directory / folder / top):
            return f"write `from {dots}{name} import …`, with a dot, for what lies in the model's folder"
    if "beyond top-level package" in str(error):
        return f"move what is imported into {source.directory}: an archive carries nothing above it"
    if not source.spec.requirements:
        return "install the package that has it, and list that under `requirements` in model.yaml"
    return f"pip install what `requirements` lists: {' '.join(source.spec.requirements)}"


def _is_module(path: Path) -> bool:
    return path.is_dir() or path.with_name(f"{path.name}.py").is_file()


def _file_remedy(source: ModelSource, name: str, directory: Path) -> str:
    """What to do about a file that the code does not find; "" where only it can know."""
    path = Path(name)
    if path.is_relative_to(directory):
        inner = path.relative_to(directory)
        if (source.directory / inner).exists():
            return f"list {inner.as_posix()} under `files` in model.yaml, which packs it: "
    elif not path.is_absolute() and (source.directory / path).exists():
        return f"write Path(__file__).parent / {name!r} for a file of the model's folder: "
    return ""
