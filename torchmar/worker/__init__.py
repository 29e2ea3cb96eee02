"""Run an archive's handler in this process, by the rules of TorchServe's loader and service.

TorchServe 0.12's `ts/model_loader.py` and `ts/service.py` work between its socket and a handler. These
modules do the same without TorchServe: choose the entry point, turn a request into the handler's input, and
turn the handler's answer into a response. They also apply what the Java server refuses of a manifest, a
config and a response: each part of a response may have `max_response_size` bytes, and a larger one fails its
whole batch. A live test runs the same archives on both and compares.

    with Worker.load(Path("model_store/efficientnet_lite0-2.0.mar")) as worker:
        [response] = worker.predict([Request.body(picture)])
        response.json()

A response in parts (`send_intermediate_predict_response`) is a Response with `parts`.

These modules leave out: batches that new requests may join (`stopping_criteria`), for which they raise
CannotTell; everything that takes time, namely queues, `clientTimeoutInMills` and `responseTimeout`; and an
archive's modules with the name of a standard module, which in TorchServe replace it.

`check_archive` does it in its own process, which starts as TorchServe's worker does and finds those modules
replaced; a crash or a hang there harms nothing here. Its verdict proves nothing against malice, because it
comes from the process that runs the archive's code; a signature does.
"""

from ._check import (
    NEEDS_TORCH,
    NOTHING_ASKED,
    Answered,
    Check,
    GoldenResult,
    check_archive,
    check_unpacked,
    config_of_a_check,
)
from ._context import RecordedMetrics, WorkerContext
from ._exchange import Parameter, Request, Response
from ._loader import GENERATED
from ._service import MAX_RESPONSE_SIZE
from ._unpack import unpacked
from ._verify import Verified, verify
from ._worker import Worker

__all__ = [
    "GENERATED",
    "MAX_RESPONSE_SIZE",
    "NEEDS_TORCH",
    "NOTHING_ASKED",
    "Answered",
    "Check",
    "GoldenResult",
    "Parameter",
    "RecordedMetrics",
    "Request",
    "Response",
    "Verified",
    "Worker",
    "WorkerContext",
    "check_archive",
    "check_unpacked",
    "config_of_a_check",
    "unpacked",
    "verify",
]
