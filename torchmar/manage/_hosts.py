"""Open a fleet: the one server that is named, or those of a YAML file."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from ..client import Server
from ..connection import Target
from ..errors import ClientError, ReleaseError
from ..files import is_folder, read_text
from ..processes import lock_folder
from ..release import Fleet, Host
from ..server import config_or_defaults, find_running

_PATHS = {"dir", "key_file", "token_file", "ca_file", "store"}
_KEYS = _PATHS | {"name"} | {item.name for item in fields(Target)} - {"directory", "timeout"}

Connect = Callable[[Target], Server]


@contextmanager
def open_fleet(
    target: Target,
    *,
    hosts: Path | None = None,
    store: Path | None = None,
    journals: Path | None = None,
    go_without: bool = False,
    connect: Connect = lambda target: target.connect(os.environ),
) -> Iterator[Fleet]:
    """Connect to `target`, or to each server that the YAML file `hosts` lists; docs/releases.md describes it.

    The journals lie in `journals`, by default in releases/ of the target's folder or beside `hosts`. `store`
    is the target's model store, if it cannot be found. With `go_without`, servers of a file that do not
    answer are `missing` in the fleet.

    Raises ClientError; ReleaseError for a file with mistakes, or if none of its servers answers.
    """
    if hosts is None:
        named, folder = [("", target, store)], target.directory
    else:
        named, folder = _read(hosts, target.timeout), hosts.parent
    found: list[Host] = []
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        for name, one, its_store in named:
            try:
                found.append(host_of(stack, name, one, its_store, connect))
            except ClientError as error:
                if not go_without or hosts is None:
                    raise
                missing[name] = str(error)
        if not found:
            lines = [f"{name}: {why}" for name, why in missing.items()]
            raise ReleaseError("\n  ".join(["none of the servers answers:", *lines]))
        journals = journals or folder / "releases"
        yield Fleet(tuple(found), journals, missing=missing, locks=lock_folder())


def host_of(stack: ExitStack, name: str, target: Target, store: Path | None, connect: Connect) -> Host:
    """Connect to one server; its store is the given one, or that of the process that runs here.

    Without a name it is called by its address, or `local`.
    """
    server = stack.enter_context(connect(target))
    elsewhere = target.inference or target.management or target.metrics
    if not name:
        name = server.management.address if target.management else elsewhere or "local"
    if elsewhere:
        return Host(name, server, store, False, None)
    running = find_running(target.directory)
    if running is not None:
        config, here = running.config, running.model_store
    else:
        config = config_or_defaults(target.directory / "config.properties")
        here = config.store(target.directory)
        here = here if is_folder(here) else None
    size = config.get("max_request_size")
    max_body = int(size) if size.isascii() and size.isdigit() else None
    return Host(name, server, store or here, True, max_body, running=running)


def _read(file: Path, timeout: float) -> list[tuple[str, Target, Path | None]]:
    try:
        text = read_text(file)
        content, document = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise ReleaseError(f"{file}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ReleaseError(f"{file}: is not YAML: {error}") from None
    if not isinstance(content, list) or not content:
        raise ReleaseError(f"{file}: expected a list of servers, as `- {{name: a, dir: /srv/a}}`")
    nodes = [] if document is None else document.value
    found = [
        _described(file, number, item, _lines(node), timeout)
        for number, (item, node) in enumerate(zip(content, nodes, strict=True), 1)
    ]
    names = [name for name, _, _ in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ReleaseError(f"{file}: more than one server has the name {', '.join(twice)}")
    return found


def _lines(node: yaml.Node) -> dict[str, str]:
    """Return the line of each key of a server, in words."""
    pairs = node.value if isinstance(node.value, list) else []
    marks = {pair[0].value: pair[0].start_mark for pair in pairs if isinstance(pair, tuple)}
    return {str(key): f"line {mark.line + 1}: " for key, mark in marks.items()}


def _described(
    file: Path, number: int, item: Any, lines: Mapping[str, str], timeout: float
) -> tuple[str, Target, Path | None]:
    if not isinstance(item, Mapping) or not item.get("name"):
        raise ReleaseError(f"{file}: server {number}: expected `name` and `dir` or addresses, found {item!r}")
    name = str(item["name"])
    if not name.isprintable():
        raise ReleaseError(f"{file}: server {number}: name: found {item['name']!r}, expected a line of text")
    wrong = [
        f"{file}: {lines.get(str(key), '')}server {name}: {key}: {problem}"
        for key, value in item.items()
        if (problem := _problem(key, value))
    ]
    if wrong:
        raise ReleaseError("\n  ".join(wrong))
    given = {key: value for key, value in item.items() if value is not None and key != "name"}
    given |= {key: file.parent / given[key] for key in _PATHS & given.keys()}
    store, directory = given.pop("store", None), given.pop("dir", file.parent)
    return name, Target(directory=directory, timeout=timeout, **given), store


def _problem(key: Any, value: Any) -> str:
    """Return what is wrong with a key of a server, or with its value; '' for nothing."""
    if key not in _KEYS:
        known = sorted(_KEYS)
        close = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
        return f"no such key, {f'did you mean {close[0]}?' if close else 'known: ' + ', '.join(known)}"
    kind, expected = (bool, "true or false") if key == "no_token" else (str, "text")
    if value != "" and (isinstance(value, kind) or key == "name" or value is None):
        return ""
    return f"found {value!r}, expected {expected}"
