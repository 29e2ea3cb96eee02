"""A model whose handler answers in parts: from a folder to a release, on a live server."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchmar.archive import build
from torchmar.release import release, rollback
from torchmar.spec import load_model

from .candidates import QUICK, fleet_of
from .servers import StartServer

pytestmark = pytest.mark.live

HANDLER = '''
from dataclasses import dataclass

import numpy as np
from handlers.base import BatchHandler, Decoded, Refused


@dataclass(frozen=True)
class Params:
    first: str = "n"


class Handler(BatchHandler[Params]):
    """Counts: each next number is the model's."""

    def example(self):
        return {"number": np.int64(1)}

    def decode(self, request):
        try:
            return Decoded([{"number": np.int64(request["body"]["count"])}])
        except (KeyError, TypeError, ValueError):
            raise Refused("send {\\"count\\": N}") from None

    def infer(self, batch):
        return {"text": np.array([list(self.words(int(number))) for number in batch["number"]], dtype=object)}

    def split(self, outputs, count):
        return [{"text": row} for row in outputs["text"]]

    def words(self, count):
        number = np.array([0], dtype=np.int64)
        for _ in range(count):
            number = self.model({"number": number})["next"]
            yield f"{self.params.first}{number[0]} "

    def encode(self, output, about):
        return "".join(output["text"])

    def streams(self, about):
        return True

    def stream(self, inputs, about):
        yield from self.words(int(inputs["number"]))
'''
LOAD = """
import torch


class Next(torch.nn.Module):
    def forward(self, number):
        return {"next": number + 1}


def build():
    return Next()
"""


def model(folder: Path, version: str, first: str = "n") -> Path:
    """A folder with its handler, its module and a golden request."""
    (folder / "golden").mkdir(parents=True)
    (folder / "golden" / "three.json").write_text('{"count": 3}')
    (folder / "mine.py").write_text(HANDLER)
    (folder / "load.py").write_text(LOAD)
    (folder / "model.yaml").write_text(
        f'name: counts\nversion: "{version}"\nhandler: mine.py\nsource: load:build\ngolden: golden\n'
        f"params: {{first: {first}}}\n"
    )
    return folder


def test_from_a_folder_to_a_release(start_server: StartServer, tmp_path: Path) -> None:
    """Built, released, read part by part; what says something else is refused, what is the same is not."""
    live = start_server(timeout=120)
    fleet = fleet_of(live, tmp_path / "releases")

    def released(version: str, first: str = "n") -> str:
        folder = model(tmp_path / version, version, first)
        return release(fleet, build(load_model(folder), tmp_path / "store").archive, QUICK).outcome

    assert released("1.0") == "promoted"
    with live.inference.predict_stream("counts", {"count": 4}) as answer:
        assert list(answer) == [b"n1 ", b"n2 ", b"n3 ", b"n4 "]
    assert released("2.0", "m") == "failed"
    assert released("3.0") == "promoted"
    rollback(fleet, "counts")
    assert live.inference.predict("counts", {"count": 2}).content == b"n1 n2 "
