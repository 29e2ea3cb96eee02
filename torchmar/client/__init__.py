"""A client of TorchServe's three HTTP APIs.

    with connect(key_file="key_file.json") as server:
        server.management.register("mine-2.0.mar")
        server.management.wait_until_ready("mine", "2.0")
        prediction = server.inference.predict("mine", picture, version="2.0")

`Management`, `Inference` and `Metrics` also work alone. Each has one requests session and sets a timeout on
every call. torchmar.errors lists what they raise.
"""

from ._connect import Server, connect
from ._http import Timeouts
from ._inference import Inference, Prediction
from ._management import JobQueue, Management, ModelEntry, ModelVersion, WorkerStatus, no_reason
from ._metrics import Metrics, Sample, total
from ._remedy import NOTHING_REGISTERED, chosen_version, remedied
from ._stream import StreamedPrediction
from ._tokens import KeyFile, NoTokens, StaticTokens, TokenFile, Tokens

__all__ = [
    "NOTHING_REGISTERED",
    "Inference",
    "JobQueue",
    "KeyFile",
    "Management",
    "Metrics",
    "ModelEntry",
    "ModelVersion",
    "NoTokens",
    "Prediction",
    "Sample",
    "Server",
    "StaticTokens",
    "StreamedPrediction",
    "Timeouts",
    "TokenFile",
    "Tokens",
    "WorkerStatus",
    "chosen_version",
    "connect",
    "no_reason",
    "remedied",
    "total",
]
