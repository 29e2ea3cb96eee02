"""Run code that archives carry: torchmar's handlers, and the code of a model's folder."""

from __future__ import annotations

import importlib
import importlib.util
import io
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

_HANDLERS = "handlers"


def handlers(module: str) -> ModuleType:
    """Import a module of handlers/, from the checkout or the installed package.

    Its location depends on how torchmar was installed, so type checkers and import rules cannot follow it.
    """
    return importlib.import_module(f"torchmar.{_HANDLERS}.{module}")


class _HandlersFinder(MetaPathFinder):
    """Finds `handlers.base`, an archive's name for torchmar.handlers.base of this process."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not _in_handlers(fullname):
            return None
        try:
            module = importlib.import_module(f"torchmar.{fullname}")
        except ModuleNotFoundError as error:
            if error.name == f"torchmar.{fullname}":
                return None
            raise
        return importlib.util.spec_from_loader(
            fullname, _Loaded(module), is_package=hasattr(module, "__path__")
        )


class _Loaded(Loader):
    """Provides an already loaded module, unchanged."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


# -- a model's folder ---------------------------------------------------------------------------

PACKAGE = "model_source"
"""The package name of a model's folder, here and in an archive."""

FAILURES = (Exception, SystemExit)
"""How a model's code may fail. SystemExit is no Exception, and must not end torchmar."""


class ModelCode:
    """The code of a model's folder, imported as the package that it is in an archive.

    While it is `running`, `from . import …` works, input() gets no answer, and the command line holds only
    `arguments`. It finds torchmar's handlers under their name in an archive. Its output does not reach
    stdout, which may carry JSON for a program. Its changes to this process are undone: the `layers` of one
    model must not become those of the next.
    """

    def __init__(self, directory: Path, arguments: Sequence[str] = ()) -> None:
        self.directory = directory.absolute()
        self._argv = [str(self.directory), *arguments]
        self._modules: dict[str, ModuleType] = {}
        self._path: list[str] = []

    @property
    def files(self) -> list[Path]:
        """Return the files of the package that were imported while it ran."""
        named = (
            getattr(module, "__file__", None) for name, module in self._modules.items() if _in_package(name)
        )
        return [Path(file) for file in named if isinstance(file, str)]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run it during the block; the first time, this imports the package."""
        modules, path, here = dict(sys.modules), list(sys.path), Path.cwd()
        argv, stdin = sys.argv, sys.stdin
        _forget(name for name in modules if _in_package(name) or _in_handlers(name))
        sys.modules.update(self._modules)
        sys.path += self._path
        sys.argv, sys.stdin = self._argv, io.StringIO()
        finder = _HandlersFinder()
        sys.meta_path.insert(0, finder)
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
            sys.meta_path.remove(finder)
            _forget([*own, *(name for name in list(sys.modules) if _in_handlers(name))])
            hidden = {n: module for n, module in modules.items() if _in_package(n) or _in_handlers(n)}
            sys.modules.update(hidden)
            sys.path[:], sys.argv, sys.stdin = path, argv, stdin
            os.chdir(here)


def imported_from(directory: Path) -> list[str]:
    """Return the modules that were imported from a folder by plain names, not as parts of the package."""
    found = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        # With torch there are 6,000 modules, and to make paths of them all takes a tenth of a second.
        if not isinstance(file, str) or directory.name not in file or _in_package(name):
            continue
        if Path(file).is_relative_to(directory):
            inner = Path(file).relative_to(directory).parts
            if not any(part.startswith(".") or part == "site-packages" for part in inner):
                found.append(name)
    return found


def _in_package(name: str) -> bool:
    return name.partition(".")[0] == PACKAGE


def _in_handlers(name: str) -> bool:
    return name.partition(".")[0] == _HANDLERS


@contextmanager
def _put_back() -> Iterator[None]:
    """Restore settings of this process that training scripts change, so that the next model finds them
    unchanged.
    """
    environment, umask = dict(os.environ), os.umask(0o077)
    os.umask(umask)
    try:
        with warnings.catch_warnings(), _torchs_put_back():
            yield
    finally:
        os.umask(umask)
        for name in {*os.environ} - {*environment}:
            del os.environ[name]
        os.environ.update({name: was for name, was in environment.items() if os.environ.get(name) != was})


@contextmanager
def _torchs_put_back() -> Iterator[None]:
    """Restore torch's settings; if torch was not loaded before, set its initial ones."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        dtype, device, grad = None, None, True
    else:
        dtype, device = torch.get_default_dtype(), torch.get_default_device()
        grad = torch.is_grad_enabled()
    try:
        yield
    finally:
        torch = sys.modules.get("torch")
        if torch is not None:
            torch.set_default_dtype(dtype or torch.float32)
            torch.set_default_device(None if device is None or device.type == "cpu" else device)
            torch.set_grad_enabled(grad)


@contextmanager
def _without_stdout() -> Iterator[None]:
    """Keep stdout empty: suppress what Python, libraries and programs write there."""
    with redirect_stdout(io.StringIO()), ExitStack() as stack:
        with suppress(OSError):  # stdout may be closed
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
        with suppress(OSError, ValueError):  # stdout is closed
            sys.__stdout__.flush()


def _forget(names: Iterable[str]) -> None:
    for name in names:
        sys.modules.pop(name, None)


def _import_package(directory: Path) -> None:
    """Import the folder as a package, with its __init__.py if it has one, as an archive would."""
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
