"""What is changed besides releases is journaled, too: `reconcile` brings back what was served last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace

from ..errors import ClientError, NoAnswer, ReleaseError, TorchmarError, WorkersNotReady
from ._fleet import Fleet, Writer
from ._history import REFUSED, History, history, outcome_of
from ._host import Host, observe
from ._journal import Entry
from ._state import ServedState

OnHost = Callable[[Host], Callable[[str], None]]
"""Given a host, returns what journals each step there before it runs: a WaitPolicy's `on_step`."""


@contextmanager
def by_hand(fleet: Fleet, model: str, kind: str) -> Iterator[OnHost]:
    """Hold a model that has a journal while it is changed, and journal the steps, and what is served then.

    Raises ReleaseError where a release is unfinished, unless it is to repair, which undoing one may need; and
    where another process holds the model. The steps of a model without a journal are events alone; it gets
    one when they are done, as `reconcile` is to bring it back, too.
    """
    journal = fleet.journal(model)
    if not journal.exists():
        with _Steps(fleet, _unjournaled(fleet)) as steps:
            yield steps.on
        with suppress(ReleaseError):  # it was done all the same
            _begin_journal(fleet, model, kind)
        return
    with journal.locked():
        past = history(journal)
        if kind != "repair":
            past.require_finished(model)
        before = {host.name: observe(host.server, model) for host in fleet.hosts}
        sets_default = kind == "set-default"
        writer = Writer.planned(fleet, journal, kind, before)
        try:
            with _Steps(fleet, writer.write) as steps:
                yield steps.on
        except BaseException as error:
            with suppress(TorchmarError):  # what went wrong is told, and not that this could not be noted
                is_changed = _note(fleet, writer, past, before, sets_default=sets_default, failed=True)
                outcome = (
                    REFUSED if _refuses(error) and not (is_changed or steps.begun) else outcome_of(error)
                )
                writer.write("finished", outcome=outcome)
            raise
        try:
            _note(fleet, writer, past, before, sets_default=sets_default)
        except ClientError as error:
            raise ReleaseError(
                f"{model}: it was done, and what is served now could not be noted: {error}\n"
                f"  When the server answers, the same command again notes it; of a version that was "
                f"unregistered, `torchmar retire {model} VERSION`"
            ) from error
        writer.write("finished", outcome="done")


def _begin_journal(fleet: Fleet, model: str, kind: str) -> None:
    """Note what is served of a model that has no journal yet. Raises ReleaseError."""
    journal = fleet.journal(model)
    if all(observe(host.server, model).default is None for host in fleet.hosts):
        return
    with journal.locked():
        # Another command may have begun it meanwhile, and knew less.
        served = {host.name: observe(host.server, model) for host in fleet.hosts}
        writer = Writer.planned(fleet, journal, kind, served)
        for host in fleet.hosts:
            writer.served(host, served[host.name])
        writer.write("finished", outcome="done")


def _refuses(error: BaseException) -> bool:
    """Whether it may be that nothing was done: somebody said no, and nobody was silent or died."""
    return isinstance(error, TorchmarError) and not isinstance(error, NoAnswer | WorkersNotReady)


class _Steps:
    """Writes `begin` before each step; that it is done is known when the next one begins, or all is over."""

    def __init__(self, fleet: Fleet, write: Callable[..., None]) -> None:
        self._clock = fleet.clock
        self._write = write
        self._under_way: tuple[str, str, float] | None = None
        self.begun = False

    def on(self, host: Host) -> Callable[[str], None]:
        """See OnHost."""

        def begin(step: str) -> None:
            self._done()
            self.begun = True
            self._write("begin", host.name, step)
            self._under_way = (host.name, step, self._clock())

        return begin

    def _done(self) -> None:
        if self._under_way is not None:
            host, step, begin = self._under_way
            self._under_way = None
            self._write("done", host, step, seconds=round(self._clock() - begin, 3))

    def __enter__(self) -> _Steps:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None:
            self._done()
        elif self._under_way is not None:
            host, step, _ = self._under_way
            with suppress(TorchmarError):
                self._write("failed", host, step, reason=str(error))


def _unjournaled(fleet: Fleet) -> Callable[..., None]:
    def tell(event: str, host: str, step: str, **data: object) -> None:
        fleet.on_entry(Entry("", "", event, host, step, data))

    return tell


def _note(
    fleet: Fleet,
    writer: Writer,
    past: History,
    before: Mapping[str, ServedState],
    *,
    sets_default: bool,
    failed: bool = False,
) -> bool:
    """What each host is to serve from now on; after a failure only where something was changed, and whether.

    What was not served before, as after a restart, was not taken away here: it is meant still, and so is
    the default, unless it was that which was set: TorchServe makes whatever is registered first the default.
    """
    is_changed = False
    for host in fleet.hosts:
        was, now = before[host.name], writer.seen(host)
        if failed and now == was:
            continue
        is_changed = True
        meant = [one for one in past.meant(host.name) if was.get(one.version) is None]
        served = now.with_lost(meant)
        known = past.served.get(host.name)
        if not sets_default and known is not None and known.default and was.get(known.default) is None:
            served = replace(served, default=known.default)
        writer.served(host, served)
    return is_changed
