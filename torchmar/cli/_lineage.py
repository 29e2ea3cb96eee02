"""Makes the lineage of an archive from what was typed, and says it in a few lines."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ArchiveError
from ..names import shown

if TYPE_CHECKING:
    from ..lineage import Lineage
    from ..spec import ModelSource

_WIDEST = 500  # characters of a line
_AUTO, _NONE = "auto", "none"


def lineages_of(
    sources: Sequence[ModelSource], parent: Path | None, data: Sequence[str], revision: str | None
) -> Iterator[tuple[Lineage | None, list[str]]]:
    """Yield the lineage of each model, None where nothing is to be recorded, and notes on it.

    Whoever names a parent or data wants a record, and the revision belongs to it. Whoever names nothing gets
    the same bytes from every checkout. Raises TorchmarError.
    """
    from ..lineage import Lineage
    from ..mar import verify
    from ..revision import revision_of

    if parent is not None and len(sources) > 1:
        raise ArchiveError("--parent: name one model folder, not several: each archive has its own parent")
    follows = None if parent is None else verify(parent).as_parent()
    digests = _digests(data)
    if revision is None:
        revision = _AUTO if follows is not None or digests else _NONE
    for source in sources:
        notes, code = [], None if revision == _NONE else revision
        if revision == _AUTO and (code := revision_of(source.directory, os.environ)) is None:
            notes.append(
                f"no revision is recorded: git knows none of {source.directory}; --revision names one"
            )
        lineage = Lineage(follows, digests, code)
        yield None if lineage == Lineage() else lineage, notes


def _digests(data: Sequence[str]) -> dict[str, str]:
    from ..dataset import digest, read_dataset

    found: dict[str, str] = {}
    for one in data:
        role, _, path = one.partition("=")
        if not role or not path or role in found:
            raise ArchiveError(f"--data {one}: write a role once and a path, as train=data/train")
        found[role] = digest(read_dataset(Path(path)))
    return found


def lineage_lines(lineage: Lineage | None) -> list[str]:
    """Return a line on what an archive was built from, and one on how good it was; [] without a lineage."""
    if lineage is None:
        return []
    lines = [f"lineage  {lineage.origin() or 'nothing is known'}"]
    if metrics := lineage.measured():
        lines.append(f"metrics  {'; '.join(metrics)}")
    return [shown(line, _WIDEST) for line in lines]
