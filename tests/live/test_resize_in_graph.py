"""An archive whose graph resizes pictures, on a live server: of two sizes, sent at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import TINY
from tests.pictures import picture
from torchmar.archive import build
from torchmar.spec import load_model

from .servers import StartServer

pytestmark = pytest.mark.live


@pytest.mark.slow
def test_pictures_of_two_sizes_are_answered_at_once_as_alone(start_server: StartServer) -> None:
    """A batch of TorchServe's may hold both."""
    live = start_server()
    params = {**load_model(TINY).spec.params, "resize_in": "graph"}
    source = load_model(TINY, {"version": "3.0", "runtime": "onnx", "params": params})
    name = live.serve(build(source, live.store).archive.path.name, "3.0")
    sent = [picture(*size, (200, 30, 90)) for size in ((40, 50), (333, 77))] * 4
    with ThreadPoolExecutor(len(sent)) as callers:
        together = list(callers.map(lambda raw: live.inference.predict(name, raw).json(), sent))
    alone = [live.inference.predict(name, raw).json() for raw in sent]
    for one, other in zip(together, alone, strict=True):
        assert [row["index"] for row in one] == [row["index"] for row in other]
        assert one[0]["probability"] == pytest.approx(other[0]["probability"], abs=1e-5)
