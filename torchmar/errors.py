"""Every error torchmar raises, in one tree.

    TorchmarError                    something the user can act on; its message says what, where, what next
    ├── SpecError                    model.yaml is wrong (all of its problems at once)
    ├── ExportError                  the module could not be loaded or exported
    │   ├── WeightsUnavailable       its weights are unavailable (no hub, no such file, wrong shapes)
    │   └── ParityError              the artifact does not answer as the module does
    ├── ArchiveError                 an archive could not be built or read
    │   ├── ArchiveExists            that name and version is already in the store, with other contents
    │   ├── ArchiveCorrupt           its contents do not match its digests, or it is no archive at all
    │   └── SignatureError           it is not signed, or by the wrong key
    ├── WorkerLoadError              the handler in an archive would not load
    ├── CannotTell                   only a server can show what the handler answers
    ├── DatasetError                 a data set could not be read, or does not suit
    ├── MaintenanceError             `maintain` cannot look at new data, or make a candidate
    ├── TuneError                    `tune` cannot measure or write what was asked
    ├── ReleaseError                 a release could not be planned or did not go through
    │   ├── ReleaseRefused           … it did not begin: its plan says why
    │   └── ReleaseInconclusive      … the gate found no clear result; the old version stays
    ├── ServerError                  the server on this machine
    │   ├── JavaNotFound
    │   ├── ServerNotStarted         it started and did not answer
    │   └── ServerAlreadyRunning
    └── ClientError                  a call to a server
        ├── NoAnswer                 it never answered, so nobody knows what it did
        │   ├── ConnectionFailed     no connection: it did nothing, a retry is safe
        │   ├── TimedOut             it took the request and stayed silent
        │   └── RegistrationPending  it may still be registering a version
        ├── UnmanageableName         no URL of TorchServe can express this name or version; nothing was sent
        ├── WorkersNotReady          registered, but its workers did not become READY
        │   └── WorkerFailedToLoad   … because the handler would not load; carries the worker's own reason
        └── BadAnswer                it answered, with a status that is not success
            ├── NotAllowed           token missing, wrong or expired; or the API is switched off
            ├── InvalidRequest       the server could not make sense of the call
            ├── NotFound             no such model, version or archive
            │   ├── ModelNotFound
            │   └── ArchiveNotInStore
            ├── AlreadyRegistered
            ├── IsDefaultVersion     the default version cannot be unregistered while others exist
            ├── Unavailable          503 of the server, before any worker saw the request
            │   ├── NoWorker
            │   └── QueueFull
            ├── HandlerRefused       4xx of the handler: this request is at fault, the reason is attached
            ├── HandlerFailed        the handler raised an exception, or answered 5xx
            ├── WorkerDied           the worker crashed or did not reply in time with this batch in hand
            ├── OutOfResources       507 of TorchServe: the worker is out of memory
            └── ServerFailed         any other 5xx

`NoAnswer` and `BadAnswer` have different roots because they need different reactions: after a
ConnectionFailed a retry is safe; after a BadAnswer it depends on the class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class TorchmarError(Exception):
    """Base of all errors; `str(error)` can be shown to a user as it is.

    `hint` is the part of it that says what to do, for programs; it is '' where the message alone says it.
    """

    hint = ""


# -- model.yaml ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """One problem in a file. `line` counts from 1; 0 if unknown."""

    where: str
    what: str
    line: int = 0
    remedy: str = ""

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line else ""
        subject = f"{self.where}: " if self.where else ""
        return f"{place}{subject}{self.what}" + (f" ({self.remedy})" if self.remedy else "")


class SpecError(TorchmarError):
    """model.yaml is wrong; `problems` holds every problem found."""

    def __init__(self, file: str, problems: Sequence[Problem]) -> None:
        self.file = file
        self.problems = tuple(problems)
        self.hint = "; ".join(dict.fromkeys(one.remedy for one in self.problems if one.remedy))
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__(f"{file}: {count}\n" + "\n".join(f"  {problem}" for problem in self.problems))


# -- export and archive -------------------------------------------------------------------------


class ExportError(TorchmarError):
    """The module could not be loaded or exported."""


class WeightsUnavailable(ExportError):
    """The module's weights are unavailable."""


class ParityError(ExportError):
    """The artifact does not answer as the module does."""


class ArchiveError(TorchmarError):
    """A model archive could not be built or read."""


class ArchiveExists(ArchiveError):
    """The store already has that name and version, with other contents."""


class ArchiveCorrupt(ArchiveError):
    """An archive does not match its digests, or is no archive at all."""


class SignatureError(ArchiveError):
    """An archive is not signed, is signed by the wrong key, or could not be signed."""


class WorkerLoadError(TorchmarError):
    """The handler in an archive did not load. `details` holds the traceback, if there is one."""

    def __init__(self, message: str, details: str = "") -> None:
        self.details = details
        super().__init__(message)


class CannotTell(TorchmarError):
    """Only a server can show this handler's answer, because torchmar.worker lacks a feature that it uses."""


class DatasetError(TorchmarError):
    """A data set could not be read, or does not suit what is to be done with it."""


class MaintenanceError(TorchmarError):
    """`maintain` cannot look at new data, or make a candidate."""


class TuneError(TorchmarError):
    """`tune` cannot measure or write what was asked."""


class ReleaseError(TorchmarError):
    """A release could not be planned or did not go through."""


class ReleaseRefused(ReleaseError):
    """A release did not begin; nothing changed."""


class ReleaseInconclusive(ReleaseError):
    """Noise hides whether the candidate is good; the old version stays."""


# -- the server on this machine -----------------------------------------------------------------


class ServerError(TorchmarError):
    """Base of errors in starting or stopping the server on this machine."""


class JavaNotFound(ServerError):
    """No Java 17 or newer was found."""


class ServerNotStarted(ServerError):
    """The server started and did not answer."""


class ServerAlreadyRunning(ServerError):
    """A server started from this directory is already running."""


# -- calls to a server --------------------------------------------------------------------------


class ClientError(TorchmarError):
    """Base of errors in a call to a server."""


class NoAnswer(ClientError):
    """The server never answered, so nobody knows what it did."""


class ConnectionFailed(NoAnswer):
    """No connection was made: the server did nothing, and a retry is safe."""


class TimedOut(NoAnswer):
    """The server took the request and stayed silent for longer than the timeout."""


class RegistrationPending(NoAnswer):
    """A server has not answered a registration, and may still be working on it."""


class UnmanageableName(ClientError):
    """No URL of TorchServe can express this name or version; nothing was sent."""


class WorkersNotReady(ClientError):
    """A version is registered, but its workers did not become READY."""


class WorkerFailedToLoad(WorkersNotReady):
    """The handler did not load; `reason` is the worker's own, '' if unreadable."""

    def __init__(self, message: str, reason: str = "") -> None:
        self.reason = reason
        super().__init__(message)


class BadAnswer(ClientError):
    """The server answered with a status that is not success.

    `status` is the HTTP status, `body` the response's body (its first 4 KiB at most).
    """

    def __init__(self, message: str, *, status: int, body: str = "") -> None:
        self.status = status
        self.body = body[:4096]
        super().__init__(message)


class NotAllowed(BadAnswer):
    """The token is missing, wrong or expired; or the API is switched off."""


class InvalidRequest(BadAnswer):
    """The server could not make sense of the call."""


class NotFound(BadAnswer):
    """There is no such model, version or archive."""


class ModelNotFound(NotFound):
    """No such model or version is registered."""


class ArchiveNotInStore(NotFound):
    """The server's model store has no such archive."""


class AlreadyRegistered(BadAnswer):
    """That version of that model is already registered."""


class IsDefaultVersion(BadAnswer):
    """The default version cannot be unregistered while others exist."""


class Unavailable(BadAnswer):
    """The server answered 503 before any worker saw the request: no worker, or a full queue."""


class NoWorker(Unavailable):
    """The version has no worker."""


class QueueFull(Unavailable):
    """The version's queue is full (`job_queue_size`)."""


class HandlerRefused(BadAnswer):
    """The handler refused this request; `reason` is its message."""

    def __init__(self, message: str, *, status: int, body: str = "", reason: str = "") -> None:
        self.reason = reason
        super().__init__(message, status=status, body=body)


class HandlerFailed(BadAnswer):
    """The handler raised an exception, which fails its whole batch, or answered 5xx itself.

    `reason` is its message, '' if TorchServe answered for it.
    """

    def __init__(self, message: str, *, status: int, body: str = "", reason: str = "") -> None:
        self.reason = reason
        super().__init__(message, status=status, body=body)


class WorkerDied(BadAnswer):
    """The worker crashed, or did not reply in time, while it held this batch."""


class OutOfResources(BadAnswer):
    """TorchServe answered 507: the worker is out of memory."""


class ServerFailed(BadAnswer):
    """The server answered with any other 5xx."""
