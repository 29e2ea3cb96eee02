"""Keep torch out of a worker that never computes with it, by a stand-in.

TorchServe's worker imports torch for one `isinstance(x, torch.Tensor)`. That costs seconds and hundreds of
megabytes in every worker, and without torch no worker starts. An ONNX archive carries a `sitecustomize.py`
that calls `install()`; Python runs it first, because TorchServe puts the archive on PYTHONPATH. The first
real use of torch loads the real one.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
import types
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any


class _NoTensor:
    """`torch.Tensor` while torch is not loaded: nothing is an instance of it."""


class LazyTorch(types.ModuleType):
    """Stands in `sys.modules["torch"]` until code needs an attribute that only the real one has."""

    def __init__(self) -> None:
        super().__init__("torch", "stand-in until torch is really used")
        # Other libraries' find_spec("torch") reads this; None would make it raise.
        self.__spec__ = importlib.util.find_spec("torch")
        self._installed = self.__spec__ is not None
        if self.__spec__ is not None:
            self.__file__ = self.__spec__.origin  # inspect reads it from every loaded module
        self._lock = threading.RLock()
        self._real: types.ModuleType | None = None

    def __getattr__(self, name: str) -> Any:
        if self._real is None:
            if name == "Tensor":
                return _NoTensor
            if not self._installed:
                if name == "cuda":  # ts.metrics asks whether it is available
                    return types.SimpleNamespace(is_available=lambda: False)
                if name.startswith("__"):
                    raise AttributeError(name)
                raise ModuleNotFoundError("No module named 'torch': it is not installed here", name="torch")
        # `import torch.nn` and `from torch import …` first ask for `__path__`, and so come here.
        return getattr(self.load(), name)

    def load(self) -> types.ModuleType:
        with self._lock:
            if self._real is None:
                del sys.modules["torch"]
                try:
                    self._real = importlib.import_module("torch")
                except BaseException:
                    sys.modules["torch"] = self
                    raise
            return self._real


class _SubmoduleFinder(MetaPathFinder):
    """Finds an already loaded module if the first use of torch is `import torch.nn` or the like.

    Loading torch imports torch.nn too; the pending import must take that module and not execute it again.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.startswith("torch.") and target is None and fullname in sys.modules:
            return importlib.util.spec_from_loader(fullname, _Loaded(sys.modules[fullname]))
        return None


class _Loaded(Loader):
    """Provides an already loaded module, unchanged."""

    def __init__(self, module: types.ModuleType) -> None:
        self._module = module
        self._spec = module.__spec__

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return self._module

    def exec_module(self, module: types.ModuleType) -> None:
        module.__spec__ = self._spec


def install() -> None:
    """Install the stand-in, unless torch is already loaded."""
    if "torch" not in sys.modules:
        sys.modules["torch"] = LazyTorch()
        sys.meta_path.insert(0, _SubmoduleFinder())


def run_shadowed_sitecustomize(own_file: str) -> None:
    """Run the sitecustomize that the archive's own one hides, if the environment has one."""
    own_dir = Path(own_file).resolve().parent
    others = [entry for entry in sys.path if entry and Path(entry).resolve() != own_dir]
    spec = PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
