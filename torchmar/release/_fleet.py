"""The servers that a model is released to: what each serves, their fleet, and acting on all at once."""

from __future__ import annotations

import hashlib
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..client import ModelVersion, Server
from ..errors import ClientError, ModelNotFound, ReleaseError, TorchmarError
from ..names import shown, unsayable
from ..processes import handling
from ..server import RunningServer
from ..workers import WaitPolicy
from ._journal import Entry, Held, Journal, Writer, hold, ignore, read
from ._options import Options

_PAUSE = 1.0  # seconds before a server that has not answered is asked again
_AT_ONCE = 32  # hosts


@dataclass(frozen=True)
class Host:
    """Describes a server under a name. `store` is its model store, None where it cannot be reached from here.

    `local` tells whether it runs on this machine, so that this machine's memory is its. `max_body` is how
    many bytes a request may have by its configuration, None where that is unknown. `running` is its process,
    where that was found on this machine.
    """

    name: str
    server: Server
    store: Path | None = None
    local: bool = False
    max_body: int | None = None
    running: RunningServer | None = None


@dataclass(frozen=True)
class ServedVersion:
    """Describes one version on a server: `ready` workers are READY, of `workers` that are listed."""

    version: str
    archive: str
    ready: int
    workers: int
    batch_size: int = 1
    response_timeout: int = 120
    memory: int = 0
    """Bytes that its largest worker holds; 0 where the server does not tell."""

    @property
    def desired_workers(self) -> int:
        """Workers that it should have; counts those that are restarting, unless all are."""
        return self.workers if self.ready else 0

    @classmethod
    def of(cls, described: ModelVersion) -> ServedVersion:
        """Take what matters from a description."""
        return cls(
            version=described.version,
            archive=described.archive,
            ready=described.ready_workers,
            workers=len(described.workers),
            batch_size=described.batch_size,
            response_timeout=described.response_timeout,
            memory=max((worker.memory_usage for worker in described.workers), default=0),
        )


@dataclass(frozen=True)
class ServedState:
    """Describes what a server serves of one model, or should; nothing of an unknown model."""

    model: str
    default: str | None = None
    versions: tuple[ServedVersion, ...] = ()

    def get(self, version: str | None) -> ServedVersion | None:
        """Return that version, None where it is not registered."""
        return next((one for one in self.versions if one.version == version), None)

    def with_versions(self, more: Iterable[ServedVersion]) -> ServedState:
        """Add those versions that it lacks."""
        lacking = tuple(one for one in more if self.get(one.version) is None)
        return replace(self, versions=(*self.versions, *lacking))

    def without(self, version: str) -> ServedState:
        """Leave a version out."""
        return replace(self, versions=tuple(one for one in self.versions if one.version != version))

    def as_json(self) -> dict[str, Any]:
        """Return it as the data of a journal's entry."""
        return {"default": self.default, "versions": [asdict(version) for version in self.versions]}

    @classmethod
    def from_json(cls, model: str, content: Mapping[str, Any]) -> ServedState:
        """Read it back. Raises AttributeError, TypeError for data that torchmar does not write."""
        default = content.get("default")
        versions = tuple(read(ServedVersion, item) for item in content.get("versions", ()))
        numbers = [
            number
            for one in versions
            for number in (one.ready, one.workers, one.batch_size, one.response_timeout, one.memory)
        ]
        if not (default is None or isinstance(default, str)) or min(numbers, default=0) < 0:
            raise TypeError("not what torchmar writes")
        return cls(model, default, versions)


def observe(server: Server, model: str) -> ServedState:
    """Return what a server serves of a model now, of all that can be managed there. Raises ClientError."""
    management = server.management
    try:
        default = management.default_version(model)
        versions = management.versions(model)
    except ModelNotFound:
        return ServedState(model)
    known = tuple(ServedVersion.of(version) for version in versions if _can_be_managed(version.version))
    return ServedState(model, default if _can_be_managed(default) else shown(default), known)


def _can_be_managed(version: str) -> bool:
    """Return whether a version that somebody registered fits a URL and a line of text."""
    return version.isprintable() and version != "all" and unsayable(version) is None


@dataclass(frozen=True)
class Fleet:
    """Holds all hosts, in the order in which they are released to; `folder` holds the journals.

    `missing` are hosts that cannot be reached, by name, and why. `on_entry` is called with every entry that
    was journaled; what it raises is ignored. `on_progress` is called during long steps with host, step and
    how far it is, in words.

    `locks` is a folder that all processes share which may change these servers.

    `nginx_reload` is the command that makes nginx read its file. It is never taken from a journal: whoever
    may write one would run commands as whoever resumes a release or rolls it back.
    """

    hosts: tuple[Host, ...]
    folder: Path
    on_entry: Callable[[Entry], None] = ignore
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    missing: Mapping[str, str] = field(default_factory=dict)
    nginx_reload: str | None = None
    on_progress: Callable[[str, str, str], None] = lambda _host, _step, _text: None
    locks: Path | None = None

    def journal(self, model: str) -> Journal:
        """Return the journal of a model."""
        return Journal(self.folder, model, on_entry=self.on_entry)

    @contextmanager
    def locked(self, model: str) -> Iterator[None]:
        """Hold a model for this process. Raises ReleaseError where another one holds it."""
        with self.journal(model).locked(), self.locked_on_servers(model):
            yield

    @contextmanager
    def locked_on_servers(self, model: str) -> Iterator[None]:
        """Hold a model on each server: whoever addresses it in another way has another journal.

        Raises ReleaseError where another process holds it. Without `locks`, or where there is no room for
        one, it does nothing: the way back must be possible on a full disk.
        """
        with ExitStack() as stack:
            if self.locks is not None:
                for address in sorted({_normal(host.server.management.address) for host in self.hosts}):
                    name = hashlib.sha256(f"{address} {model}".encode(errors="surrogatepass")).hexdigest()
                    try:
                        stack.enter_context(hold(self.locks / f"{name}.lock", model, f"on {address}"))
                    except Held:
                        raise
                    except ReleaseError:
                        continue
            yield

    def writer(self, model: str, record_id: str) -> Writer:
        """Return what goes on to write a record."""
        return Writer(self.journal(model), record_id, clock=self.clock)

    def begin(
        self,
        model: str,
        kind: str,
        served: Mapping[str, ServedState],
        *,
        hosts: Sequence[str] | None = None,
        **more: Any,
    ) -> Writer:
        """Begin a record of what will be done to `hosts`; `served` is what they serve before.

        `hosts` None means all those in `served`. Raises ReleaseError.
        """
        before = {name: one.as_json() for name, one in served.items()}
        journal = self.journal(model)
        writer = Writer(journal, journal.new_id(), is_way_back=kind == "rollback", clock=self.clock)
        names = list(served if hosts is None else hosts)
        writer.write("planned", kind=kind, hosts=names, served=before, **more)
        return writer

    def host(self, name: str) -> Host:
        """Return a host. Raises ReleaseError for one that the journal knows and this fleet lacks."""
        for host in self.hosts:
            if host.name == name:
                return host
        if name in self.missing:
            raise ReleaseError(self.missing[name])
        known = ", ".join(host.name for host in self.hosts)
        raise ReleaseError(
            f"the journal speaks of the host {name!r}, which is not among {known}: give --hosts"
        )

    def pace(self, options: Options) -> WaitPolicy:
        """Return how a version is drained in a release with these options."""
        return WaitPolicy(options.longest, options.drain_timeout, self.clock, self.sleep)

    def served(self, host: Host, model: str, known: ServedState | None = None) -> ServedState:
        """Return what a host serves after a change; it is asked twice, and then `known` is taken for it.

        One slow answer to this question must not undo what succeeded. Raises ClientError where nothing is
        known.
        """
        with suppress(ClientError):
            return observe(host.server, model)
        self.sleep(_PAUSE)
        try:
            return observe(host.server, model)
        except ClientError:
            if known is None:
                raise
            return known


def _normal(address: str) -> str:
    """Return HOST:PORT of an address: one name for each server, also on this machine."""
    parts = urlsplit(address)
    host = parts.hostname or ""
    return f"{'localhost' if host in {'127.0.0.1', '::1'} else host}:{parts.port}"


class Stopped(Exception):
    """A wait was ended by Ctrl-C in another thread."""


def for_each_host(
    fleet: Fleet, hosts: Sequence[Host], act: Callable[[Fleet, Host], None], patience: float | None = None
) -> dict[str, str]:
    """Act on hosts at once and return what went wrong, by name: one that is silent delays no other.

    What is under way after `patience` seconds goes on unattended; None waits for it. After Ctrl-C, which is
    raised when all have ended, the waits by the sleep of the fleet that `act` is given end, and calls to
    servers come to their end.
    """
    stop = threading.Event()

    def sleep(seconds: float) -> None:
        if not stop.is_set():
            fleet.sleep(seconds)
        if stop.is_set():
            raise Stopped

    def tried(host: Host) -> str | None:
        try:
            act(replace(fleet, sleep=sleep), host)
        except (TorchmarError, OSError) as problem:
            return str(problem)
        except Stopped:
            pass
        return None

    with _noted_interrupts(stop):
        pool = ThreadPoolExecutor(min(_AT_ONCE, max(1, len(hosts))))
        under_way = {pool.submit(tried, host): host.name for host in hosts}
        done = wait(under_way, timeout=patience).done
        pool.shutdown(wait=patience is None)
    if stop.is_set():
        raise KeyboardInterrupt
    found = {name: one.result() for one, name in under_way.items() if one in done}
    return {name: problem for name, problem in found.items() if problem is not None}


@contextmanager
def _noted_interrupts(stop: threading.Event) -> Iterator[None]:
    """Have Ctrl-C and SIGTERM set `stop` during the block, instead of raising KeyboardInterrupt.

    That comes between any two instructions, also when a thread has begun and nobody knows of it yet. Nothing
    changes outside of the main thread, which alone is interrupted, nor for signals that raise nothing.
    """
    numbers: list[int] = []
    if threading.current_thread() is threading.main_thread():
        raising = (signal.SIGINT, signal.SIGTERM)
        numbers = [each for each in raising if signal.getsignal(each) is signal.default_int_handler]
    with handling(lambda *_: stop.set(), *numbers):
        yield
