"""Finds the servers of a release: the one that the options name, or those of a file."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

from ..errors import ClientError, ReleaseError
from ..files import is_folder, read_text
from ..release._options import Option
from ._options import ServerOptions

if TYPE_CHECKING:
    import yaml

    from ..release import Fleet, Host
    from ._events import EventPrinter

_PANEL = "Which servers"
_OF_ONE = {"inference", "management", "metrics", "key_file", "token_file", "no_token", "ca_file", "store"}
_KEYS = {"name", "dir", *_OF_ONE}
_PATHS = {"dir", "key_file", "token_file", "ca_file", "store"}


@dataclass(frozen=True)
class FleetOptions(ServerOptions):
    """Holds the options of every command that changes, or shows, what is served."""

    hosts: Annotated[Path | None, Option("YAML file with several servers; see docs/releases.md.", _PANEL)] = (
        None
    )
    store: Annotated[Path | None, Option("The server's model store, if torchmar cannot find it.", _PANEL)] = (
        None
    )
    journal: Annotated[
        Path | None,
        Option("Folder of the journals; by default releases/ in --dir or beside --hosts.", _PANEL),
    ] = None

    @contextmanager
    def fleet(self, printer: EventPrinter | None = None, *, go_without: bool = False) -> Iterator[Fleet]:
        """Connect to the servers. Raises ClientError, ReleaseError.

        With `go_without`, servers of a file that do not answer are `missing` in the fleet.
        """
        from ..processes import lock_folder
        from ..release import Fleet

        missing: dict[str, str] = {}
        with ExitStack() as stack:
            if self.hosts is None:
                found = [host_of(stack, None, self, self.store)]
                folder = self.journal or self.directory / "releases"
            else:
                self._require_nothing_besides_hosts()
                found = []
                for name, options, where in _read(self.hosts, self):
                    try:
                        found.append(host_of(stack, name, options, where))
                    except ClientError as error:
                        if not go_without:
                            raise
                        missing[name] = str(error)
                if not found:
                    lines = [f"{name}: {why}" for name, why in missing.items()]
                    raise ReleaseError("\n  ".join(["none of the servers answers:", *lines]))
                folder = self.journal or self.hosts.parent / "releases"
            fleet = Fleet(tuple(found), folder, missing=missing, locks=lock_folder())
            if printer is not None:
                fleet = replace(fleet, on_entry=printer, on_progress=printer.note_progress)
            yield fleet

    def of_each(self, facts: Mapping[str, dict[str, Any]]) -> Any:
        """Return the facts for JSON: of the one server, or of each server of a file, with its name."""
        if self.hosts is None:
            [only] = facts.values()
            return only
        return [{"host": name, **found} for name, found in facts.items()]

    def at(self, host: str) -> str:
        """Return how a line about a server begins: with its name, if a file names several servers."""
        return "" if self.hosts is None else f"{host}: "

    @property
    def as_typed(self) -> str:
        """Return the options that a suggested command needs to reach the same servers."""
        words = []
        for name, value in self._given().items():
            words += [_option(name)] if value is True else [_option(name), str(value)]
        return "".join(f" {quote(word)}" for word in words)

    def _given(self) -> dict[str, Any]:
        """Return the options about servers that were typed, or set by a variable."""
        values = ((item, getattr(self, item.name)) for item in fields(self) if item.name != "timeout")
        return {item.name: value for item, value in values if value != item.default}

    def _require_nothing_besides_hosts(self) -> None:
        """Raise ReleaseError for options of one server, which would be ignored beside --hosts."""
        given = [name for name in self._given() if name in _OF_ONE]
        if given:
            options = ", ".join(map(_option, given))
            raise ReleaseError(
                f"{options}: for one server, and --hosts names several: write `{given[0]}:` for each in "
                f"{self.hosts}, and leave out the option and its variable TORCHMAR_…"
            )


def _option(field: str) -> str:
    """Return the option of a field of FleetOptions, as it is typed."""
    return "--dir" if field == "directory" else "--" + field.replace("_", "-")


def host_of(stack: ExitStack, name: str | None, options: ServerOptions, store: Path | None) -> Host:
    """Connect to one server; its store is the given one, or that of the process that runs here."""
    from ..release import Host
    from ..server import config_or_defaults, find_running

    server = stack.enter_context(options.connect())
    elsewhere = options.inference or options.management or options.metrics
    if name is None:
        name = server.management.address if options.management else elsewhere or "local"
    if elsewhere:
        return Host(name, server, store, False, None)
    running = find_running(options.directory)
    if running is not None:
        config, here = running.config, running.model_store
    else:
        config = config_or_defaults(options.directory / "config.properties")
        here = config.store(options.directory)
        here = here if is_folder(here) else None
    size = config.get("max_request_size")
    max_body = int(size) if size.isascii() and size.isdigit() else None
    return Host(name, server, store or here, True, max_body, running=running)


def _read(file: Path, server: ServerOptions) -> list[tuple[str, ServerOptions, Path | None]]:
    import yaml

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
        _described(file, number, item, _lines(node), server)
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


def _no_such_key(key: str) -> str:
    close = difflib.get_close_matches(key, sorted(_KEYS), n=1, cutoff=0.5)
    return f"no such key, {f'did you mean {close[0]}?' if close else 'known: ' + ', '.join(sorted(_KEYS))}"


def _described(
    file: Path, number: int, item: Any, lines: Mapping[str, str], server: ServerOptions
) -> tuple[str, ServerOptions, Path | None]:
    if not isinstance(item, Mapping) or not item.get("name"):
        raise ReleaseError(f"{file}: server {number}: expected `name` and `dir` or addresses, found {item!r}")
    if not str(item["name"]).isprintable():
        raise ReleaseError(f"{file}: server {number}: name: found {item['name']!r}, expected a line of text")
    name = item["name"]
    unknown = [str(key) for key in item if key not in _KEYS]
    if unknown:
        wrong = [f"{lines.get(key, '')}server {name}: {key}: {_no_such_key(key)}" for key in unknown]
        raise ReleaseError("\n  ".join(f"{file}: {one}" for one in wrong))
    for key, value in item.items():
        kind, expected = (bool, "true or false") if key == "no_token" else (str, "text")
        if value != "" and (isinstance(value, kind) or key == "name" or value is None):
            continue
        where = f"{file}: {lines.get(key, '')}server {name}: {key}"
        raise ReleaseError(f"{where}: found {value!r}, expected {expected}")

    given = {key: value for key, value in item.items() if value is not None and key != "name"}
    given |= {key: file.parent / given[key] for key in _PATHS & given.keys()}
    where = given.pop("store", None)
    directory = given.pop("dir", file.parent)
    return str(name), ServerOptions(directory=directory, timeout=server.timeout, **given), where
