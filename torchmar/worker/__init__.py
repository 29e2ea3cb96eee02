"""An archive's handler in this process, under the stock loader's and service's own rules.

What TorchServe 0.12 does between its socket and a handler is `ts/model_loader.py` and `ts/service.py`; this
is the same, without TorchServe: which entry point is chosen, how a request becomes what the handler is
given, what becomes of its answer. A live test runs the same archives here and there and compares.

    with Worker.load(Path("model_store/efficientnet_lite0-2.0.mar")) as worker:
        [response] = worker.predict([Request.body(picture)])
        response.json()

Not here: streaming (`send_intermediate_predict_response`, `stopping_criteria`), and modules of an archive
that are named like one of the standard library, which in TorchServe replace it.

`check_archive` does it in a process of its own, as TorchServe would start it: what crashes or hangs there
takes nothing along.
"""

from ._check import Check, GoldenResult, check_archive, check_unpacked
from ._context import RecordedMetrics, WorkerContext
from ._exchange import Parameter, Request, Response
from ._worker import Worker

__all__ = [
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
]
