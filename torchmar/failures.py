"""Explain why a model's own code failed, in a sentence that begins with the remedy."""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence
from pathlib import Path

from .handler_code import PACKAGE

# pickle's message about a class from the program that saved it.
_OF_MAIN = re.compile(r"Can't get attribute '(\w+)' on <module '__main__'")


def explained(
    folder: Path, error: BaseException, requirements: Sequence[str] = (), ran_in: Path | None = None
) -> str:
    """Explain in one sentence why the code of a model's folder failed; it begins with the remedy.

    `requirements` are those of its model.yaml; `ran_in` is where it ran, if that is a copy.
    """
    directory = (ran_in or folder).absolute()
    file, line = own_line(error, directory)
    place = "" if file is None else f"{file.as_posix()} line {line}: "
    what = f"{place}{named(error)}"
    if isinstance(error, SystemExit):
        remedy = "move what ends the program (sys.exit, argparse) below `if __name__ == '__main__':`"
        return f"{remedy}: {what}"
    if isinstance(error, EOFError) and "reading a line" in str(error):
        return f"leave out what asks at the terminal: {what}"
    if file is None and (pickled := _pickles_remedy(folder, requirements, error)) is not None:
        return f"{pickled}: {error}"
    if isinstance(error, ImportError):
        return f"{_import_remedy(folder, requirements, error, directory, file)}: {place}{error}"
    if isinstance(error, FileNotFoundError) and isinstance(error.filename, str):
        return f"{_file_remedy(folder, error.filename, directory)}{what}"
    return what


def _pickles_remedy(folder: Path, requirements: Sequence[str], error: BaseException) -> str | None:
    """Return the remedy for a class that a pickled module needs; no line of the folder names it."""
    if isinstance(error, ModuleNotFoundError) and error.name and not requirements:
        file = f"{error.name.partition('.')[0]}.py"
        return f"put {file} into {folder}, or install the package that has it"
    found = _OF_MAIN.search(str(error))
    if found is None or not isinstance(error, AttributeError):
        return None
    where = f"move class {found[1]} from the script that saved it to a file of its own in {folder}"
    return f"{where}, and save the module again by a script that imports it"


def named(error: BaseException) -> str:
    """Return an error's class and the first line of its message."""
    return ": ".join(filter(None, (type(error).__name__, first_line(error))))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message; "" if it has none."""
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    lines = message.strip().splitlines() or [""]
    return lines[0][:500] + (" …" if len(lines) > 1 else "")


def own_line(error: BaseException, directory: Path) -> tuple[Path | None, int | None]:
    """Return the file of the model's folder, relative to it, and the line, where an error came up."""
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename is not None:
        frames.append((error.filename, error.lineno))
    for name, line in reversed(frames):
        if Path(name).is_relative_to(directory):
            return Path(name).relative_to(directory), line
    return None, None


def _import_remedy(
    folder: Path, requirements: Sequence[str], error: ImportError, directory: Path, file: Path | None
) -> str:
    name = error.name or ""
    top, _, rest = name.partition(".")
    if top == PACKAGE:
        if isinstance(error, ModuleNotFoundError):
            return f"put {rest.replace('.', '/')}.py into {folder}"
        return "import what is there"
    own = Path() if file is None else file.parent
    for within, dots in ((own, "."), (Path(), "." * (len(own.parts) + 1))):
        if top and _is_module(directory / within / top):
            return f"write `from {dots}{name} import …`, with a dot, for what lies in the model's folder"
    if "beyond top-level package" in str(error):
        return f"move what is imported into {folder}: an archive carries nothing above it"
    if not requirements:
        return "install the package that has it, and list that under `requirements` in model.yaml"
    return f"pip install what `requirements` lists: {' '.join(requirements)}"


def _is_module(path: Path) -> bool:
    return path.is_dir() or path.with_name(f"{path.name}.py").is_file()


def _file_remedy(folder: Path, name: str, directory: Path) -> str:
    """Return the remedy for a file that the code does not find; "" if only the code can know."""
    path = Path(name)
    if path.is_relative_to(directory):
        inner = path.relative_to(directory)
        if (folder / inner).exists():
            return f"list {inner.as_posix()} under `files` in model.yaml, which packs it: "
    elif not path.is_absolute() and (folder / path).exists():
        return f"write Path(__file__).parent / {name!r} for a file of the model's folder: "
    return ""
