"""Serves with mosec: a Rust frontend and Python workers. mosec reads its options from the command line.

https://mosecorg.github.io/mosec/reference/interface.html: `num` processes; a worker that defines deserialize
and serialize takes and gives bytes.
"""

from __future__ import annotations

import os

from mosec import Server, Worker

from benchmarks.work import from_environment


class Classifier(Worker):
    """Serves in one process."""

    def __init__(self) -> None:
        super().__init__()
        self._answer = from_environment()

    def deserialize(self, data: bytes) -> bytes:
        """Return the body unchanged."""
        return data

    def forward(self, data: bytes) -> bytes:
        """Do all of the work."""
        return self._answer(data)

    def serialize(self, data: bytes) -> bytes:
        """Return the answer, which is JSON already."""
        return data


if __name__ == "__main__":
    server = Server()
    server.append_worker(Classifier, num=int(os.environ["BENCH_WORKERS"]))
    server.run()
