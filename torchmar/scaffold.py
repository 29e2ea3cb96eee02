"""Makes model folders: from a template, or with a model.yaml that lists a handler's parameters."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import textwrap
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import yaml

from .errors import SpecError, TorchmarError
from .files import exists, is_folder
from .handler import HandlerOf, names_of_ours
from .handler_code import ModelCode, handlers
from .names import name_problem
from .params import descriptions_of
from .spec import load_model

_OWN = "own"  # the template for a handler of one's own
_SPEC = "model.yaml"
_CACHES = shutil.ignore_patterns("__pycache__")
_STUB = '''"""Builds the module. Put your own in place of the error."""

import torch


def build(pretrained: bool = True) -> torch.nn.Module:
    """Return the module with its weights; with `pretrained=False` the same module without them."""
    raise NotImplementedError("return your module in load.py")
'''


class NotMade(TorchmarError):
    """Says why a model folder was not made; nothing was changed."""


def make_folder(name: str, handler: str, folder: Path) -> list[str]:
    """Make the folder of a model `name`, and return what must be filled in before it builds, with files.

    Raises NotMade if the folder exists already, or a name is not allowed.
    """
    if problem := name_problem(name):
        raise NotMade(problem)
    asked = HandlerOf(handler, folder)
    if asked.is_stock or (asked.ours and handler not in names_of_ours()):
        known = ", ".join(names_of_ours())
        raise NotMade(f"--handler {handler}: expected one of {known}; or a file to begin with, as mine.py")
    if asked.file is not None and asked.file.name == "load.py":
        raise NotMade(f"--handler {handler}: load.py is for the module; give the handler another name")
    if exists(folder) or folder.is_symlink():
        raise NotMade(f"{folder} exists already: give another name, or another folder with --dir")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(prefix=".init-", dir=folder.parent))
    except OSError as error:
        raise NotMade(f"{folder}: cannot be made: {error.strerror}") from None
    try:
        missing = _fill(making, name, asked)
        if not missing:
            _require_loads(making)
        making.chmod(0o777 & ~_umask())
        making.rename(folder)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    return missing


def copy_example(name: str, folder: Path) -> None:
    """Copy one of torchmar's model folders, which lie in the package, or beside it in a checkout."""
    package = Path(__file__).parent
    examples = package / "examples" if is_folder(package / "examples") else package.parent / "models"
    shutil.copytree(examples / name, folder, ignore=_CACHES)


def _require_loads(folder: Path) -> None:
    try:
        load_model(folder)
    except SpecError as error:  # its own text names lines of a file that is gone
        raise NotMade(
            "\n".join(f"{one.where}: {one.what} ({one.remedy})" for one in error.problems)
        ) from None


def _fill(folder: Path, name: str, handler: HandlerOf) -> list[str]:
    templates = Path(str(handlers("base").__file__)).parent / "templates"
    template = templates / (handler.named if handler.ours else _OWN)
    if not template.is_dir():
        text, missing = _spec_of(name, handler)
        (folder / _SPEC).write_text(text, encoding="utf-8")
        (folder / "load.py").write_text(_STUB, encoding="utf-8")
        return [*(f"params.{one} in {_SPEC}" for one in missing), "the module in load.py"]
    shutil.copytree(
        template,
        folder,
        dirs_exist_ok=True,
        copy_function=shutil.copyfile,
        ignore=_CACHES,
    )
    spec = (folder / _SPEC).read_text(encoding="utf-8")
    spec = spec.replace("name: NAME", f"name: {_quoted(name)}", 1)
    if handler.file is not None:
        spec = spec.replace("handler: HANDLER", f"handler: {handler.named}", 1)
        code = (folder / "HANDLER.py").read_text(encoding="utf-8")
        (folder / "HANDLER.py").unlink()
        code = code.replace("class Handler(", f"class {handler.wanted or 'Handler'}(", 1)
        (folder / handler.file.name).write_text(code, encoding="utf-8")
    (folder / _SPEC).write_text(spec, encoding="utf-8")
    return []


def _spec_of(name: str, handler: HandlerOf) -> tuple[str, list[str]]:
    """Return a model.yaml for a handler without a template, and the names of required parameters.

    Required parameters have no value yet; the others are comments.
    """
    kind = handler.load(ModelCode(handler.directory)).params_type()
    descriptions = descriptions_of(kind)
    required = [field for field in fields(kind) if _is_required(field)]
    optional = [field for field in fields(kind) if not _is_required(field)]
    lines = [
        f"name: {_quoted(name)}",
        'version: "1.0"     # in quotes: 1.10 is a number',
        f"handler: {handler.named}",
        "source: load:build # load.py, build(pretrained: bool) -> torch.nn.Module",
        "params:" if required else "params: {}",
    ]
    for field in required:
        lines += [*_comment(descriptions.get(field.name, "")), f"  {field.name}: # {field.type}, required"]
    for field in optional:
        lines += [*_comment(descriptions.get(field.name, "")), f"  # {field.name}: {_default(field)}"]
    lines += [
        "runtime: onnx      # onnx: served without torch; eager: the module as it is; aoti: compiled",
        "serving: {minWorkers: 1, batchSize: 4, responseTimeout: 30}",
        "# golden: golden   # a folder with requests that every build, release and `verify` asks",
    ]
    return "\n".join(lines) + "\n", [field.name for field in required]


def _is_required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _default(field: Field[Any]) -> str:
    """Return a default as YAML, if it is simple."""
    value = field.default if field.default_factory is MISSING else field.default_factory()
    return json.dumps(value, ensure_ascii=False, default=str)


def _comment(text: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), 100, initial_indent="  # ", subsequent_indent="  # ")


def _quoted(name: str) -> str:
    """Return a name in quotes if YAML would read it as a number, a boolean or null."""
    try:
        if yaml.safe_load(f"name: {name}") == {"name": name}:
            return name
    except yaml.YAMLError:
        pass
    return json.dumps(name)


def _umask() -> int:
    """Return the umask, which can be read only by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
