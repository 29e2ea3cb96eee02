"""mosec: a Rust frontend and Python workers. Its own options (--port, --timeout …) come on the command line.

https://mosecorg.github.io/mosec/reference/interface.html: `num` processes; a worker that defines deserialize
and serialize takes and gives bytes.
"""

from __future__ import annotations

import os

from mosec import Server, Worker

from benchmarks.work import from_environment


class Classifier(Worker):
    """One process of it."""

    def __init__(self) -> None:
        super().__init__()
        self._answer = from_environment()

    def deserialize(self, data: bytes) -> bytes:
        """The body as it is."""
        return data

    def forward(self, data: bytes) -> bytes:
        """All of the work."""
        return self._answer(data)

    def serialize(self, data: bytes) -> bytes:
        """JSON already."""
        return data


if __name__ == "__main__":
    server = Server()
    server.append_worker(Classifier, num=int(os.environ["BENCH_WORKERS"]))
    server.run()
