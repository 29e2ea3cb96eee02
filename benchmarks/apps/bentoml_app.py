"""Serves with BentoML: `bentoml serve`, its production mode, with a worker for each core.

https://docs.bentoml.com/en/latest/build-with-bentoml/parallelize-requests.html for `workers`, and
https://docs.bentoml.com/en/latest/build-with-bentoml/iotypes.html for a root input: the body as it is.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import bentoml

from benchmarks.work import from_environment


@bentoml.service(
    workers=int(os.environ["BENCH_WORKERS"]),
    traffic={"timeout": 60},
    logging={"access": {"enabled": False}},
)
class Classifier:
    """Serves in one process."""

    def __init__(self) -> None:
        self._answer = from_environment()

    @bentoml.api(route="/predict")
    def predict(self, picture: Path, /) -> Any:
        """Do all of the work."""
        return self._answer(picture.read_bytes())
