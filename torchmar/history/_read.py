"""Read the archives of a model in a store, order them by descent, and add what the journals say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ArchiveError, ReleaseError
from ..lineage import Parent
from ..mar import Archive, find_archives, model_name, read
from ..release import Event, Past, past_of
from ..versions import order


@dataclass(frozen=True)
class Version:
    """One version, in the place of the tree that its `depth` says: below the one that it was built from.

    `archive` is None where the store has none. `name` is another model's for a parent of that model.
    `default_on` are the hosts whose default it is, by the journals. `note` says what is odd about its parent.
    """

    name: str
    version: str
    depth: int
    archive: Archive | None
    events: tuple[Event, ...] = ()
    default_on: tuple[str, ...] = ()
    note: str = ""

    @property
    def parent(self) -> Parent | None:
        """Return the parent that its archive names."""
        lineage = None if self.archive is None else self.archive.lineage
        return None if lineage is None else lineage.parent


@dataclass(frozen=True)
class Broken:
    """An archive of the store that cannot be read, or is not what was built, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class ModelHistory:
    """The versions of a model, each right after its parent and that one's other descendants.

    `defaults` are by host. `unread` says which journals could not be read, and why. `others` are the names of
    other models in the store.
    """

    name: str
    store: Path
    versions: tuple[Version, ...]
    broken: tuple[Broken, ...] = ()
    defaults: Mapping[str, str] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


def model_history(
    name: str,
    store: Path,
    journals: Sequence[Path] = (),
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> ModelHistory:
    """Return the history of a model by the archives in a store, and by the journals in some folders.

    A folder of journals that does not exist has none. Raises ArchiveError where there is no such store.
    """
    archives, broken, others = _archives(name, store, progress)
    pasts, unread = _pasts(name, journals)
    past = _joined(pasts)
    return ModelHistory(
        name,
        store,
        tuple(_ordered(name, archives, past)),
        tuple(broken),
        past.defaults,
        tuple(unread),
        tuple(sorted(others)),
    )


def _archives(
    name: str, store: Path, progress: Callable[[str], None]
) -> tuple[list[Archive], list[Broken], set[str]]:
    """Return the model's archives, those of any model that are broken, and the names of other models."""
    try:
        paths = find_archives(store)
    except OSError as error:
        raise ArchiveError(f"--store {store}: give the model store: {error.strerror or error}") from None
    found, broken, others = list[Archive](), list[Broken](), set[str]()
    for path in paths:
        progress(f"reading {path.name}")
        try:
            if (its := model_name(path)) != name:
                others.add(its)
                continue
            archive = read(path)
            if problems := archive.problems():
                raise ArchiveError(f"{path}: does not match its digests: {'; '.join(problems)}")
        except (ArchiveError, OSError) as error:
            broken.append(Broken(path, str(error).removeprefix(f"{path}: ")))
        else:
            found.append(archive)
    return found, broken, others


def _pasts(name: str, journals: Sequence[Path]) -> tuple[dict[Path, Past], list[str]]:
    found, unread = dict[Path, Past](), list[str]()
    for folder in journals:
        try:
            found[folder] = past_of(folder, name)
        except ReleaseError as error:
            unread.append(str(error))
    return found, unread


def _joined(pasts: Mapping[Path, Past]) -> Past:
    """Join what several journals say; where there are several, a host is told with its journal's folder."""
    several = len(pasts) > 1
    events = sorted((event for past in pasts.values() for event in past.events), key=lambda event: event.at)
    defaults = {
        f"{host} ({folder})" if several else host: version
        for folder, past in pasts.items()
        for host, version in past.defaults.items()
    }
    return Past(tuple(events), defaults)


# -- descent ------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Node:
    name: str
    version: str
    archive: Archive | None = None
    parent: _Node | None = None
    children: list[_Node] = field(default_factory=list)
    note: str = ""


def _ordered(name: str, archives: Sequence[Archive], past: Past) -> Iterator[Version]:
    nodes = _linked(name, archives, {event.version for event in past.events} | {*past.defaults.values()})
    waiting = [(node, 0) for node in _sorted(node for node in nodes if node.parent is None)]
    while waiting:
        node, depth = waiting.pop()
        waiting += [(child, depth + 1) for child in _sorted(node.children)]
        is_own = node.name == name
        yield Version(
            node.name,
            node.version,
            depth,
            node.archive,
            tuple(event for event in past.events if is_own and event.version == node.version),
            tuple(host for host, version in past.defaults.items() if is_own and version == node.version),
            node.note,
        )


def _sorted(nodes: Iterable[_Node]) -> list[_Node]:
    """Return nodes with the lowest version last, where a stack is popped."""
    return sorted(nodes, key=lambda node: (order(node.version), node.name), reverse=True)


def _linked(name: str, archives: Sequence[Archive], journaled: set[str]) -> list[_Node]:
    """Return a node for each archive, each further version that is journaled, and each parent."""
    nodes = [_Node(name, archive.version, archive) for archive in archives]
    nodes += [_Node(name, version) for version in journaled - {node.version for node in nodes}]
    known: dict[tuple[str, str], list[_Node]] = {}
    for node in nodes:
        known.setdefault((node.name, node.version), []).append(node)
    for node in tuple(nodes):
        lineage = None if node.archive is None else node.archive.lineage
        if lineage is None or lineage.parent is None:
            continue
        named = lineage.parent
        same = known.setdefault((named.name, named.version), [])
        if not same:
            same.append(_Node(named.name, named.version))
            nodes += same
        above = next((one for one in same if _is(one.archive, named) is True), same[0])
        if _descends(above, node):
            node.note = f"its parent {named} descends from it: one of them was built again"
            continue
        if _is(above.archive, named) is False:
            node.note = f"{named} was built again since: this one follows another archive of that version"
        node.parent = above
        above.children.append(node)
    return nodes


def _is(archive: Archive | None, parent: Parent) -> bool | None:
    """Return whether an archive is the parent that is named; None where its bytes do not tell."""
    if archive is None:
        return None
    if parent.sha256 in {archive.sha256, archive.contents_sha256}:
        return True
    return False if archive.path.is_file() else None  # a folder, and the parent may have been its .mar


def _descends(node: _Node | None, of: _Node) -> bool:
    """Return whether a node is another one, or descends from it."""
    while node is not None:
        if node is of:
            return True
        node = node.parent
    return False
