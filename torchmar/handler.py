"""Find out whose handler model.yaml names: torchmar's, TorchServe's, or a file beside it."""

from __future__ import annotations

import importlib
import inspect
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from .handler_code import PACKAGE, ModelCode, handlers
from .python_files import class_names, names, stands_on

STOCK = "torchserve:"
_FILE = re.compile(r"(?P<module>[A-Za-z_]\w*)\.py(?::(?P<name>[A-Za-z_]\w*))?")
_DEFINED = re.compile(r"^class Handler\(", re.MULTILINE)

# ts/torch_handler of TorchServe 0.12.
STOCK_NAMES = ("image_classifier", "image_segmenter", "object_detector", "text_classifier")


@dataclass(frozen=True)
class HandlerOf:
    """The handler that a model.yaml in the folder `directory` names.

    It is `ours`, another BatchHandler (a class derived from one of the package `handlers`), TorchServe's
    (`is_stock`), or anything else that TorchServe accepts: a class or a function `handle`, which is packed
    and never imported.
    """

    named: str
    directory: Path

    @property
    def is_stock(self) -> bool:
        """Return whether it is one of TorchServe's own."""
        return self.named.startswith(STOCK)

    @property
    def file(self) -> Path | None:
        """Return the file beside model.yaml, if it is one."""
        found = _FILE.fullmatch(self.named)
        return None if found is None else self.directory / f"{found['module']}.py"

    @property
    def wanted(self) -> str | None:
        """Return the class or function that is named with the file, if any."""
        found = _FILE.fullmatch(self.named)
        return None if found is None else found["name"]

    @property
    def names_a_class(self) -> bool:
        """Return whether `wanted` is a class of the file, not a function."""
        assert self.file is not None
        return self.wanted in class_names(self.file)

    @property
    def names_the_only_class(self) -> bool:
        """Return whether TorchServe would choose the class `wanted` without its name."""
        assert self.file is not None
        there = names(self.file)
        return [self.wanted] == class_names(self.file) and bool(there) and "handle" not in there

    @property
    def ours(self) -> bool:
        """Return whether it is one of torchmar's."""
        return not self.is_stock and self.file is None

    @cached_property
    def is_batch(self) -> bool:
        """Return whether it is a BatchHandler, which can be built, exported and compared with a module."""
        return self.ours or (self.file is not None and stands_on("handlers", self.file, self.wanted))

    @cached_property
    def needs_torch(self) -> bool:
        """Return whether it is derived from one of TorchServe's own handlers, which import torch."""
        return self.is_stock or (self.file is not None and stands_on("ts", self.file, self.wanted))

    @property
    def module(self) -> str:
        """Return the module's name in an archive."""
        assert self.is_batch
        return f"handlers.{self.named}" if self.file is None else f"{PACKAGE}.{self.file.stem}"

    def load(self, model_code: ModelCode) -> type[Any]:
        """Return the class of a BatchHandler. Raises ValueError if the file defines none, or several.

        Exceptions of the file's own code pass through.
        """
        if self.ours:
            found: type[Any] = handlers(self.named).Handler
            return found
        with model_code.running():
            module = importlib.import_module(self.module)
        return self._class_in(module)

    def _class_in(self, module: ModuleType) -> type[Any]:
        kind = handlers("base").BatchHandler
        own = [
            each
            for each in vars(module).values()
            if isinstance(each, type) and issubclass(each, kind) and each.__module__ == module.__name__
        ]
        named = [each for each in own if self.wanted in {None, each.__name__}]
        final = [each for each in named if not inspect.isabstract(each)]
        if len(final) == 1:
            return final[0]
        assert self.file is not None
        if named and not final:
            missing = ", ".join(sorted(named[0].__abstractmethods__))  # type: ignore[attr-defined]
            raise ValueError(f"{self.file.name}: write {missing} in class {named[0].__name__}")
        listed = ", ".join(each.__name__ for each in own) or "none"
        remedy = f"write {self.file.name}:CLASS" if own else "derive a class from BatchHandler[Params]"
        raise ValueError(f"{remedy}: the handlers in {self.file.name} are {listed}")


def names_of_ours() -> list[str]:
    """Return the names of torchmar's own handlers."""
    folder = Path(str(handlers("base").__file__)).parent
    return sorted(
        path.stem for path in folder.glob("*.py") if _DEFINED.search(path.read_text(encoding="utf-8"))
    )
