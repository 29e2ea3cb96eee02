"""Check the disk space for unpacking: TorchServe unpacks into its temporary folder, not the model store."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import ServerError, ServerFailed
from ..files import free_bytes, remove_tree
from ..names import shown
from ._running import RunningServer
from ._temporary import room_needed

# java.io.File.createTempFile("models", ".download"). TorchServe moves it to models/ once complete.
_HALF = re.compile(r"models[0-9]+\.download")


@dataclass(frozen=True)
class Room:
    """Disk space in bytes: what an archive needs in `folder` and what is free; `free` is None if unknown."""

    folder: Path
    needed: int
    free: int | None

    @property
    def is_enough(self) -> bool:
        """Return whether it fits; True if the free space is unknown."""
        return self.free is None or self.needed <= self.free

    def __str__(self) -> str:
        needs = f"{self.needed / 1e6:,.1f} MB are needed, and " if self.needed else ""
        if self.free is None:
            return f"{needs}the free space in {self.folder} is unknown"
        return f"{needs}{self.free / 1e6:,.1f} MB are free in {self.folder}"

    def require(self, name: str) -> None:
        """Raise ServerError if it does not fit."""
        if not self.is_enough:
            raise ServerError(
                f"{name}: does not fit where this server unpacks archives: {self}. Free some space, start it "
                "with TMPDIR on a larger disk, or build a folder (`torchmar archive --directory`), which is "
                "served in place"
            )


def room_for(folder: Path, sizes: Iterable[int]) -> Room:
    """Return the space for an archive's files in the folder that a server unpacks into (`unpacks_into`)."""
    return Room(folder, room_needed(sizes), free_bytes(folder))


@contextmanager
def unpacking(running: RunningServer | None, name: str, sizes: Iterable[int] = ()) -> Iterator[None]:
    """Check before the block registers an archive that its files fit; clean up if they did not.

    `sizes` are in bytes, and empty for a folder. Does nothing for a server elsewhere (None). Raises
    ServerError; if TorchServe could not save the archive all the same, ServerFailed with the folder and its
    needed and free space.
    """
    if running is None:
        yield
        return
    needed, name = list(sizes), shown(name, 200)
    room = room_for(running.unpacks_into, needed)
    if not room.is_enough and remove_half_unpacked(running):
        room = room_for(running.unpacks_into, needed)
    room.require(name)
    try:
        yield
    except ServerFailed as error:
        if "Failed to save model" not in str(error):
            raise
        room, removed = room_for(running.unpacks_into, needed), remove_half_unpacked(running)
        then = ". What it had begun to unpack was removed" if removed else ""
        text = f"{error}\n  {name} could not be unpacked: {room}{then}"
        raise ServerFailed(text, status=error.status, body=error.body) from error


def remove_half_unpacked(running: RunningServer) -> int:
    """Remove what failed registrations left of an archive. Returns the number of removed folders.

    TorchServe unpacks next to the registered models and leaves partial files there. Removes nothing while an
    archive is being unpacked, nor from a temporary folder that other servers share.
    """
    if running.console is None or running.unpacks_into != running.temporary:
        return 0
    try:
        left = [path for path in running.temporary.iterdir() if _HALF.fullmatch(path.name)]
    except OSError:
        return 0
    if not left or _is_unpacking(running):
        return 0
    removed = 0
    for folder in left:
        with suppress(OSError):
            remove_tree(folder)
            removed += 1
    return removed


def _is_unpacking(running: RunningServer) -> bool:
    """Return whether the server has an archive open; it reads it from the first entry to the last."""
    import psutil

    java, store = running.java(), running.model_store
    try:
        files = [] if java is None else [Path(file.path) for file in java.open_files()]
    except psutil.Error:
        return True  # unknown, so keep everything
    return any(file.suffix == ".mar" or (store is not None and store in file.parents) for file in files)
