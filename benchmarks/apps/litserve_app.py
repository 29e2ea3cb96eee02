"""Serves with LitServe: uvicorn in front, inference workers behind a queue.

https://lightning.ai/docs/litserve/api-reference/litserver, "Production setup": on a CPU as many
`workers_per_device` as cores; `fast_queue` above 100 requests per second; `num_api_servers` as many as
workers (its default); no client file, log level warning. It takes JSON or a form, so the picture comes as a
form field: https://lightning.ai/docs/litserve/features/request-response-format
"""

# No `from __future__ import annotations`: LitServe compares the annotation of `request` itself.
import os
from typing import Any

import litserve
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.work import from_environment


class Classifier(litserve.LitAPI):
    """Serves in one inference worker."""

    def setup(self, device: Any) -> None:  # noqa: ARG002
        """Load the work in each worker."""
        self._answer = from_environment()

    def decode_request(self, request: Request) -> bytes:
        """Return the form's field: a request with this annotation arrives as its form."""
        form: Any = request
        content: bytes = form["data"].file.read()
        return content

    def predict(self, x: bytes) -> bytes:
        """Do all of the work."""
        return self._answer(x)

    def encode_response(self, output: bytes) -> Response:
        """Return the answer, which is JSON already."""
        return Response(output, media_type="application/json")


if __name__ == "__main__":
    litserve.LitServer(
        Classifier(),
        accelerator="cpu",
        devices=1,
        workers_per_device=int(os.environ["BENCH_WORKERS"]),
        fast_queue=True,
    ).run(
        host="127.0.0.1",
        port=int(os.environ["BENCH_PORT"]),
        log_level="warning",
        generate_client_file=False,
    )
