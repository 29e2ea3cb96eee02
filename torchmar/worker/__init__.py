"""An archive's handler in this process, under the stock loader's and service's own rules.

What TorchServe 0.12 does between its socket and a handler is `ts/model_loader.py` and `ts/service.py`; this
is the same, without TorchServe: which entry point is chosen, how a request becomes what the handler is
given, what becomes of its answer. So is what the server (Java) refuses of a manifest and a config, and of an
answer: each part of one may have `max_response_size` bytes, a larger one takes its batch along. A live test
runs the same archives here and there and compares.

    with Worker.load(Path("model_store/efficientnet_lite0-2.0.mar")) as worker:
        [response] = worker.predict([Request.body(picture)])
        response.json()

An answer in parts (`send_intermediate_predict_response`) is a Response with `parts`.

Not here: batches that go on while others begin (`stopping_criteria`), of which it says so; whatever takes
time: queues, `clientTimeoutInMills`, `responseTimeout`; and modules of an archive that are named like one of
the standard library, which in TorchServe replace it.

`check_archive` does it in a process of its own, as TorchServe would start it, with these modules replaced:
what crashes or hangs there takes nothing along. Its verdict proves nothing against malice, as it comes from
the process in which the archive's code runs; a signature does.
"""

from ._check import NEEDS_TORCH, NOTHING_ASKED, Answered, Check, GoldenResult, check_archive, check_unpacked
from ._context import RecordedMetrics, WorkerContext
from ._exchange import Parameter, Request, Response
from ._loader import GENERATED
from ._service import MAX_RESPONSE_SIZE
from ._unpack import unpacked
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
    "Worker",
    "WorkerContext",
    "check_archive",
    "check_unpacked",
    "unpacked",
]
