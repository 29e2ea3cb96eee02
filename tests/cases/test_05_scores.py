"""Case 05: outputs that are no logits are told by `scores`, or refused before anybody is answered."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.models.tiny.load import tiny
from torchmar import mar
from torchmar.errors import WorkerLoadError
from torchmar.worker import Request, Worker

Load = Callable[..., Worker]
HEAD = "torch.nn.Linear(64, 10),"


def pictures() -> list[bytes]:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (40, 40, 3)), np.full((40, 40, 3), 250), np.zeros((40, 40, 3))]
    raws = []
    for array in arrays:
        buffer = io.BytesIO()
        Image.fromarray(array.astype(np.uint8)).save(buffer, "PNG")
        raws.append(buffer.getvalue())
    return raws


@pytest.fixture
def model(tiny_eager: Path, tmp_path: Path) -> Callable[..., Path]:
    """The tiny model with other layers at its end, and with `scores` as the archive says it."""

    def make(tail: str, scores: str | None, labels: list[str] | None = None) -> Path:
        folder = tmp_path / "model"
        mar.extract(tiny_eager, folder)
        source = folder / "model_source" / "load.py"
        assert HEAD in source.read_text()
        source.write_text(source.read_text().replace(HEAD, f"{HEAD} {tail}"))
        file = folder / "model-config.yaml"
        config = yaml.safe_load(file.read_text())
        params = config["handler"]["params"]
        del params["labels"]
        if labels is not None:
            params["labels"] = "labels.json"
            (folder / "model_source" / "labels.json").write_text(json.dumps(labels), encoding="utf-8-sig")
        if scores is not None:
            params["scores"] = scores
        params["topk"] = 10
        file.write_text(yaml.safe_dump(config))
        return folder

    return make


FIRST = "type('First', (torch.nn.Module,), {'forward': lambda self, x: x[:, :1] * 20})(),"
SHARP = "type('Sharp', (torch.nn.Module,), {'forward': lambda self, x: x * 50})(),"


def answers(worker: Worker) -> list[dict[str, float]]:
    """Of each picture, the probability of each label; those of a batch are those that each gets alone."""
    together = worker.predict([Request.body(raw) for raw in pictures()])
    alone = [worker.predict([Request.body(raw)])[0] for raw in pictures()]
    for one, other in zip(together, alone, strict=True):
        assert one.status == other.status == 200, one.body
        ours, theirs = ({row["label"]: row["probability"] for row in found.json()} for found in (one, other))
        assert ours == pytest.approx(theirs, abs=1e-6)
    return [{row["label"]: row["probability"] for row in found.json()} for found in together]


@pytest.mark.parametrize(
    ("tail", "scores"), [(f"{FIRST} torch.nn.Sigmoid(),", "probabilities"), (FIRST, "sigmoid")]
)
def test_one_output_is_the_probability_of_yes(
    model_worker: Load, model: Callable[..., Path], tail: str, scores: str
) -> None:
    """It differs from picture to picture, and no and yes are one together."""
    found = answers(model_worker(model(tail, scores, ["no", "yes"]), batch_size=4))
    assert len({row["yes"] for row in found}) == 3
    for row in found:
        assert row["no"] + row["yes"] == pytest.approx(1)


def test_an_output_with_softmax_is_taken_as_it_is(model_worker: Load, model: Callable[..., Path]) -> None:
    """A second softmax would give none more than 0.24."""
    found = answers(model_worker(model(f"{SHARP} torch.nn.Softmax(1),", "probabilities"), batch_size=4))
    for row in found:
        assert sum(row.values()) == pytest.approx(1)
        assert max(row.values()) > 0.4


def test_labels_that_do_not_exclude_each_other(model_worker: Load, model: Callable[..., Path]) -> None:
    """Each has a probability of its own."""
    found = answers(model_worker(model(SHARP, "sigmoid"), batch_size=4))
    assert any(sum(row.values()) > 1.5 or sum(row.values()) < 0.5 for row in found)


@pytest.mark.parametrize(
    ("tail", "scores", "reason"),
    [
        (f"{FIRST} torch.nn.Sigmoid(),", None, "write `scores: sigmoid` under `params` in model.yaml"),
        (f"{SHARP} torch.nn.Softmax(1),", None, "write `scores: probabilities` under `params`"),
        ("torch.nn.Softmax(1),", "sigmoid", "their sigmoid would be taken once more"),
        ("", "probabilities", "take `scores: probabilities` out of model.yaml"),
        ("", "softmax", "'softmax' is none of logits, probabilities, sigmoid"),
    ],
)
def test_what_contradicts_does_not_become_ready(
    model_worker: Load, model: Callable[..., Path], tail: str, scores: str | None, reason: str
) -> None:
    """The warm-up finds it, and says what to write."""
    with pytest.raises(WorkerLoadError, match=reason):
        model_worker(model(tail, scores))


@pytest.mark.parametrize("scores", ["logits", "probabilities", "sigmoid"])
def test_no_number_is_an_error_of_its_own_request(
    model_worker: Load, model: Callable[..., Path], scores: str
) -> None:
    """The model gives NaN for the second picture; the others are answered."""
    with torch.inference_mode():
        second = tiny().eval()(torch.full((1, 3, 32, 32), (250 / 255 - 0.5) / 0.5))[0, 0].item()
    tail = (
        "type('Nan', (torch.nn.Module,), {'forward': lambda self, x: torch.where("
        f"(x[:, :1] - {second!r}).abs() < 1e-4, x.new_tensor(float('nan')), x.softmax(1))}})(),"
    )
    folder = model(tail if scores == "probabilities" else tail.replace("x.softmax(1)", "x"), scores)
    responses = model_worker(folder, batch_size=4).predict([Request.body(raw) for raw in pictures()])
    assert [response.status for response in responses] == [200, 500, 200]
    assert responses[1].json()["error"].endswith("for this picture the model gives NaN or infinity")
