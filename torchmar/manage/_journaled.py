"""Journal a change that is no release: `reconcile` brings back what was served last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from ..errors import ClientError, NoAnswer, ReleaseError, TorchmarError, WorkersNotReady
from ..release._fleet import Fleet, Host, ServedState, observe
from ..release._history import REFUSED, History, history, outcome_of
from ..release._journal import Entry, Writer

OnHost = Callable[[Host], Callable[[str], None]]
"""Given a host, returns the `on_step` of a WaitPolicy: it journals each step there before it runs."""


@contextmanager
def journaled_change(fleet: Fleet, model: str, kind: str) -> Iterator[OnHost]:
    """Hold a model while it is changed; journal the steps, and what should be served then.

    Raises ReleaseError where a release is unfinished, unless it is to repair, which undoing one may need; and
    where another process holds the model. A model without a journal gets one when the change succeeded.
    """
    journal = fleet.journal(model)
    if not journal.exists():
        with fleet.locked_on_servers(model), _Steps(fleet, _unjournaled(fleet)) as steps:
            yield steps.on
        with suppress(ReleaseError):  # it was done all the same
            _begin_journal(fleet, model, kind)
        return
    with fleet.locked(model):
        past = history(journal)
        if kind != "repair":
            past.require_finished()
        before = {host.name: observe(host.server, model) for host in fleet.hosts}
        writer = fleet.begin(model, kind, before)
        try:
            with _Steps(fleet, writer.write) as steps:
                yield steps.on
        except BaseException as error:
            with suppress(TorchmarError):  # the first error matters, and not that this could not be noted
                is_changed = _note(fleet, writer, past, before, kind, failed=True)
                is_refused = _refuses(error) and not (is_changed or steps.begun)
                writer.write("finished", outcome=REFUSED if is_refused else outcome_of(error))
            raise
        try:
            _note(fleet, writer, past, before, kind)
        except ClientError as error:
            raise ReleaseError(
                f"{model}: it was done, and what is served now could not be noted: {error}\n"
                f"  When the server answers, the same command again notes it; of a version that was "
                f"unregistered, `torchmar retire {model} VERSION`"
            ) from error
        writer.write("finished", outcome="done")


def _begin_journal(fleet: Fleet, model: str, kind: str) -> None:
    """Note what is served of a model that has no journal yet. Raises ReleaseError."""
    served = {host.name: observe(host.server, model) for host in fleet.hosts}
    if all(one.default is None for one in served.values()):
        return
    with fleet.locked(model):
        # Another command may have begun it meanwhile, and knew less.
        served = {host.name: observe(host.server, model) for host in fleet.hosts}
        writer = fleet.begin(model, kind, served)
        for name, one in served.items():
            writer.write("served", name, **one.as_json())
        writer.write("finished", outcome="done")


def _refuses(error: BaseException) -> bool:
    """Return whether nothing may have been done: the server said no, and neither was silent nor died."""
    return isinstance(error, TorchmarError) and not isinstance(error, NoAnswer | WorkersNotReady)


class _Steps:
    """Writes `begin` before each step, and `done` when the next one begins or all is over."""

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
    kind: str,
    *,
    failed: bool = False,
) -> bool:
    """Note what each host should serve from now on; after a failure, where something was changed.

    Return whether anything was. Raises ClientError.
    """
    is_changed = False
    for host in fleet.hosts:
        was, now = before[host.name], fleet.served(host, writer.model)
        if failed and now == was:
            continue
        is_changed = True
        desired = past.still_desired(host.name, was, now, sets_default=kind == "set-default")
        writer.write("served", host.name, **desired.as_json())
    return is_changed


# What an interrupted step leaves, by its name.
_LEAVES = {
    "undo default": "the default version may not be back yet",
    "undo": "the old version is the default again; the new version may still be registered, and answers",
    "back": "the default version may not be back yet",
    "reconcile": "some versions of the journal may not be served yet",
    "retire": "the version may still be registered, and then it answers requests that name it",
    "rescue": "the version may have one worker more than before",
    "drain": "nothing was changed yet",
    "scale-to-0": "the version may have no workers",
    "scale": "the version may not have its number of workers yet",
    "make-standby": "nothing was changed yet",
    "register-standby": "the version answers by itself; its standby may be registered",
    "default-to-standby": "the version or its standby answers: both are registered",
    "default-back": "the version or its standby answers: both are registered",
    "drain-standby": "the version answers by itself; its standby is still registered",
    "unregister-standby": "the version answers by itself; its standby may still be registered",
    "remove-standby": "its standby was removed, and the version answers by itself",
}


def state_after(entries: Sequence[Entry]) -> str:
    """Return which steps of journaled entries were interrupted, and what they leave, in words."""
    last: dict[str, Entry] = {}
    for entry in entries:
        if entry.event in {"begin", "done", "failed"}:
            last[entry.host] = entry
    begun = {host: entry.step for host, entry in last.items() if entry.event != "done"}
    if not last:
        return "nothing was changed"
    if not begun:
        return "every step that had begun was done"
    steps = dict.fromkeys(begun.values())
    where = "; ".join(f"{step} on {', '.join(h for h, s in begun.items() if s == step)}" for step in steps)
    leaves = "; ".join(dict.fromkeys(_LEAVES[step] for step in steps if step in _LEAVES))
    return f"during {where}" + (f": {leaves}" if leaves else "")
