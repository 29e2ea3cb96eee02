"""Read an archive's folder, which TorchServe serves in place."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ..errors import ArchiveCorrupt
from ..names import shown
from ._names import MAX_DEPTH, PYCACHE, require_room, require_sound

_BLOCK = 1 << 20
# Follow no link, wait for no pipe.
_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class Folder:
    """The files of a folder. Allows no links, and nothing else but files and folders."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.sizes = dict(sorted(_walk(path)))
        require_sound(path, list(self.sizes), list(self.sizes.values()))
        top = list(path.iterdir())
        if len(top) == 1 and top[0].is_dir():
            raise ArchiveCorrupt(
                f"{path}: put a file beside {shown(top[0].name)}/: where a folder holds nothing but a "
                "folder, TorchServe serves that one instead"
            )

    def blocks(self, name: str) -> Iterator[bytes]:
        """Read a file in blocks. Raises ArchiveCorrupt if it has changed."""
        with os.fdopen(os.open(self._path / name, _FLAGS), "rb", buffering=0) as file:
            left = self.sizes[name] if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else -1
            while left >= 0 and (block := file.read(_BLOCK)):
                left -= len(block)
                yield block
        if left:
            raise ArchiveCorrupt(f"{self._path}: {shown(name)!r} was changed while it was read; try again")

    def sha256(self) -> None:
        """Return None: a folder has no digest of its own, only its files have."""

    def extract(self, folder: Path) -> None:
        """Fill a folder with symbolic links to the files."""
        for name in self.sizes:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to((self._path / name).resolve())


def _walk(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the files under a folder. Raises ArchiveCorrupt for what an archive cannot hold."""
    found, waiting = 0, [("", 0)]
    while waiting:
        here, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise ArchiveCorrupt(f"{path}: has folders more than {MAX_DEPTH} deep: do not serve it")
        with os.scandir(path / here) as entries:
            for entry in entries:
                found += 1
                require_room(path, found, 0)
                name, facts = here + entry.name, entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(facts.st_mode):
                    waiting.append((name + "/", depth + 1))
                elif stat.S_ISLNK(facts.st_mode):
                    raise ArchiveCorrupt(
                        f"{path}: {shown(name)} is a symbolic link and may lead out: do not serve it"
                    )
                elif not stat.S_ISREG(facts.st_mode):
                    raise ArchiveCorrupt(
                        f"{path}: {shown(name)} is neither a file nor a folder: do not serve it"
                    )
                elif entry.name != PYCACHE or facts.st_size:
                    yield name, facts.st_size
