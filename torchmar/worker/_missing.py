"""Say how to install a module that an archive's worker imports and does not find."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from .. import mar
from ..errors import WorkerLoadError
from ..names import shown
from ._loader import read_manifest

# Packages that handlers often import and whose module has another name.
_DISTRIBUTIONS = {
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python-headless",
    "PIL": "Pillow",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "ts": "torchserve",
    "yaml": "PyYAML",
}
# Their requirements besides torch, so that pip does not replace torch by another build.
_BESIDE_TORCH = {"captum": "matplotlib packaging tqdm"}
_REQUIREMENT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


def to_install(error: BaseException, folder: Path) -> str | None:
    """Return how to install the package that an error reports as missing, as the start of a message.

    Returns None for other errors, such as a missing file that the archive in `folder` should hold. The
    command is for the Python that runs here, and uses the version that the archive's requirements ask for.
    """
    module = next((found for each in _chain(error) if (found := _package(each)) is not None), None)
    if module is None or module in _own_names(folder):
        return None
    return _remedy(module, folder, sys.executable)


def to_install_of_output(text: str, folder: Path, python: str) -> str | None:
    """Do the same for the output of a process that a failed import ended, as any worker of `python` would."""
    last = text.rstrip().rpartition("\n")[2]
    found = re.fullmatch(r"ModuleNotFoundError: No module named '(\w+)'", last)
    return None if found is None else _remedy(found[1], folder, python)


def _remedy(module: str, folder: Path, python: str) -> str:
    distribution = _DISTRIBUTIONS.get(module, module)
    listed = _listed(folder, {module, distribution})
    pip = f"{quote(python)} -m pip install"
    line = f"{pip} {quote(listed or distribution)}"
    if module in _BESIDE_TORCH:
        line = f"{pip} {_BESIDE_TORCH[module]} && {pip} --no-deps {quote(listed or distribution)}"
    where = "" if listed is None else ", which its requirements list"
    remedy = f"install {shown(module)} for the Python that the server runs{where}: `{line}`"
    if module == "torch" and not _is_torch_free(folder):
        remedy += "; or write `torch_free: true` in model.yaml if its handler never computes with torch"
    return remedy


def _is_torch_free(folder: Path) -> bool:
    """Return whether the archive keeps torch out, or torchmar did not build it and could not add that."""
    return (folder / "sitecustomize.py").exists() or not (folder / mar.BUILD).exists()


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _package(error: BaseException) -> str | None:
    """Return the top-level module that an import did not find."""
    if not isinstance(error, ModuleNotFoundError) or not isinstance(error.name, str):
        return None
    top = error.name.partition(".")[0]
    is_package = f"'{error.name}'" in str(error) and error.name == top
    return top if is_package and top.isidentifier() and top not in sys.stdlib_module_names else None


def _own_names(folder: Path) -> set[str]:
    """Return the modules that the archive holds or should hold, such as its manifest's handler."""
    names = {entry.name.partition(".")[0] for entry in folder.iterdir()}
    try:
        handler = str(read_manifest(folder).get("model", {}).get("handler", ""))
    except WorkerLoadError:
        handler = ""
    return names | {handler.partition(":")[0].removesuffix(".py").rpartition("/")[2]}


def _listed(folder: Path, names: set[str]) -> str | None:
    """Return the line of the archive's requirements for a package with one of these names."""
    wanted = {_normal(name) for name in names}
    for line in _requirements(folder):
        found = _REQUIREMENT.match(line)
        if found is not None and _normal(found[0]) in wanted:
            return line
    return None


def _requirements(folder: Path) -> list[str]:
    try:
        name = read_manifest(folder).get("model", {}).get("requirementsFile") or "requirements.txt"
        text = (folder / str(name)).read_text(encoding="utf-8-sig")
    except (WorkerLoadError, OSError, ValueError):
        return []
    return [line.partition(" #")[0].strip() for line in text.splitlines()]


def _normal(name: str) -> str:
    """Return a name in PyPI's normal form (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
