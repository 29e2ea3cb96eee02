"""Every error torchmar raises, in one tree.

    TorchmarError                    something the user can act on; its message says what, where, what next
    ├── SpecError                    model.yaml is wrong (all of its problems at once)
    ├── ExportError                  the module could not be loaded or exported
    │   ├── WeightsUnavailable       its weights could not be had (no hub, no such file, wrong shapes)
    │   └── ParityError              what was exported does not answer as the module does
    ├── ArchiveError                 an archive could not be built or read
    │   ├── ArchiveExists            that name and version is already in the store, with other contents
    │   ├── ArchiveCorrupt           its contents do not match its digests, or it is no archive at all
    │   └── SignatureError           it is not signed, or not by who should have
    ├── WorkerLoadError              the handler in an archive would not load
    ├── CannotTell                   only a server can tell what the handler in an archive answers
    ├── TuneError                    what was asked of `tune` cannot be measured or written
    ├── ReleaseError                 a release could not be planned or did not go through
    │   ├── ReleaseRefused           … it was not begun: its plan says why
    │   └── ReleaseInconclusive      … the gate could not tell; the old version goes on
    ├── ServerError                  the server on this machine
    │   ├── JavaNotFound
    │   ├── ServerNotStarted         it was started and did not answer
    │   └── ServerAlreadyRunning
    └── ClientError                  a call to a server
        ├── NoAnswer                 it never answered: nothing is known of what it did
        │   ├── ConnectionFailed     no connection was made: it did nothing, trying again is safe
        │   ├── TimedOut             it took the request and was silent
        │   └── RegistrationPending  it was told to register a version, and may be at it still
        ├── UnmanageableName         no URL of TorchServe can say this name or version: nothing was sent
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

`NoAnswer` and `BadAnswer` are different roots because they ask for different acts: after a ConnectionFailed
trying again is safe, after a BadAnswer it depends on which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class TorchmarError(Exception):
    """Base of all; `str(error)` is fit to be shown to a user as it is.

    `hint` is the part of it that says what to do, for programs; it is '' where the message alone says it.
    """

    hint = ""


# -- model.yaml ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a file. `line` counts from 1; 0 where no line can be named."""

    where: str
    what: str
    line: int = 0
    remedy: str = ""

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line else ""
        subject = f"{self.where}: " if self.where else ""
        return f"{place}{subject}{self.what}" + (f" ({self.remedy})" if self.remedy else "")


class SpecError(TorchmarError):
    """model.yaml is wrong; `problems` holds every one found."""

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
    """Its weights could not be had."""


class ParityError(ExportError):
    """What was exported does not answer as the module does."""


class ArchiveError(TorchmarError):
    """A model archive could not be built or read."""


class ArchiveExists(ArchiveError):
    """That name and version is already in the store, with other contents."""


class ArchiveCorrupt(ArchiveError):
    """Its contents do not match its digests, or it is no archive at all."""


class SignatureError(ArchiveError):
    """It is not signed, or not by who should have; or it could not be signed."""


class WorkerLoadError(TorchmarError):
    """The handler in an archive would not load. `details` holds the traceback, where there is one."""

    def __init__(self, message: str, details: str = "") -> None:
        self.details = details
        super().__init__(message)


class CannotTell(TorchmarError):
    """Only a server can tell what this handler answers: torchmar.worker lacks what it makes use of."""


class TuneError(TorchmarError):
    """What was asked of `tune` cannot be measured or written."""


class ReleaseError(TorchmarError):
    """A release could not be planned or did not go through."""


class ReleaseRefused(ReleaseError):
    """A release was not begun; nothing was changed."""


class ReleaseInconclusive(ReleaseError):
    """Whether the candidate is good could not be told from the noise; the old version goes on."""


# -- the server on this machine -----------------------------------------------------------------


class ServerError(TorchmarError):
    """Base of what goes wrong when starting or stopping the server on this machine."""


class JavaNotFound(ServerError):
    """No Java 17 or newer was found."""


class ServerNotStarted(ServerError):
    """It was started and did not answer."""


class ServerAlreadyRunning(ServerError):
    """A server started from this directory is already running."""


# -- calls to a server --------------------------------------------------------------------------


class ClientError(TorchmarError):
    """Base of what goes wrong in a call to a server."""


class NoAnswer(ClientError):
    """It never answered: nothing is known of what it did."""


class ConnectionFailed(NoAnswer):
    """No connection was made: it did nothing, and trying again is safe."""


class TimedOut(NoAnswer):
    """It took the request and was silent for longer than the timeout."""


class RegistrationPending(NoAnswer):
    """A server was told to register a version, has not answered, and may be at it still."""


class UnmanageableName(ClientError):
    """No URL of TorchServe can say this name or version; nothing was sent."""


class WorkersNotReady(ClientError):
    """A version is registered, but its workers did not become READY."""


class WorkerFailedToLoad(WorkersNotReady):
    """The handler would not load; `reason` is the worker's own, '' where it could not be read."""

    def __init__(self, message: str, reason: str = "") -> None:
        self.reason = reason
        super().__init__(message)


class BadAnswer(ClientError):
    """It answered, with a status that is not success.

    `status` is the HTTP status, `body` what came with it (at most its first 4 KiB).
    """

    def __init__(self, message: str, *, status: int, body: str = "") -> None:
        self.status = status
        self.body = body[:4096]
        super().__init__(message)


class NotAllowed(BadAnswer):
    """Token missing, wrong or expired; or the API is switched off."""


class InvalidRequest(BadAnswer):
    """The server could not make sense of the call."""


class NotFound(BadAnswer):
    """No such model, version or archive."""


class ModelNotFound(NotFound):
    """No such model or version is registered."""


class ArchiveNotInStore(NotFound):
    """The server's model store has no such archive."""


class AlreadyRegistered(BadAnswer):
    """That version of that model is already registered."""


class IsDefaultVersion(BadAnswer):
    """The default version cannot be unregistered while others exist."""


class Unavailable(BadAnswer):
    """503 of the server, before any worker saw the request: no worker, or a full queue."""


class NoWorker(Unavailable):
    """The version has no worker."""


class QueueFull(Unavailable):
    """The version's queue is full (`job_queue_size`)."""


class HandlerRefused(BadAnswer):
    """The handler refused this request; `reason` is what it said."""

    def __init__(self, message: str, *, status: int, body: str = "", reason: str = "") -> None:
        self.reason = reason
        super().__init__(message, status=status, body=body)


class HandlerFailed(BadAnswer):
    """The handler raised an exception, and with it the whole batch failed; or it answered 5xx by itself.

    `reason` is what it said, '' where TorchServe answered for it.
    """

    def __init__(self, message: str, *, status: int, body: str = "", reason: str = "") -> None:
        self.reason = reason
        super().__init__(message, status=status, body=body)


class WorkerDied(BadAnswer):
    """The worker crashed, or did not reply in time, with this batch in hand."""


class OutOfResources(BadAnswer):
    """507 of TorchServe: the worker is out of memory."""


class ServerFailed(BadAnswer):
    """Any other 5xx."""
