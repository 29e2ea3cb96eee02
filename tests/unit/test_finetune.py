"""Fine-tuning: the loss is what its formula says, the best epoch is kept, and a killed run goes on."""

from __future__ import annotations

import math
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from tests.live.servers import ROOT
from torchmar.cli import app
from torchmar.dataset import Example, read_dataset
from torchmar.errors import DatasetError, ExportError
from torchmar.finetune import Trained, TrainingConfig, finetune
from torchmar.finetune._loss import distance_to, loss_of
from torchmar.spec import load_model

CODE = """
import torch

def net(pretrained=True):
    torch.manual_seed(3)
    return torch.nn.Sequential(
        torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(8, OUT)LAST
    )

def augment(batch):
    return {name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in batch.items()}
"""
QUICK = TrainingConfig(epochs=6, batch_size=16, learning_rate=0.02)


def folder(path: Path, params: str = "labels: [low, high]", outputs: int = 2, last: str = "") -> Path:
    """A model folder with a table of two columns."""
    path.mkdir(parents=True)
    (path / "load.py").write_text(CODE.replace("OUT", str(outputs)).replace("LAST", last))
    (path / "model.yaml").write_text(
        "name: sums\nversion: '1.0'\nhandler: tabular\nsource: load:net\n"
        f"params: {{columns: [a, b], {params}}}\n"
    )
    return path


def data(path: Path, *, classes: bool = True, count: int = 120) -> Path:
    """Rows whose label is whether their sum is above 0, or the sum itself."""
    generator = random.Random(0)
    lines = ["a,b,label"]
    for _ in range(count):
        a, b = generator.gauss(0, 1), generator.gauss(0, 1)
        lines.append(f"{a},{b},{('high' if a + b > 0 else 'low') if classes else a + b}")
    path.write_text("\n".join(lines) + "\n")
    return path


def trained(path: Path, settings: TrainingConfig = QUICK, **more: Any) -> Trained:
    table = data(path / "data.csv", **more)
    return finetune(load_model(path / "model"), read_dataset(table), path / "tuned.pt", settings)


def weights(file: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(file, weights_only=True)
    return state


def same(one: Path, other: Path) -> bool:
    pairs = zip(weights(one).values(), weights(other).values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


# -- what is minimised --------------------------------------------------------------------------

LOGITS = torch.tensor([[2.0, -1.0], [0.5, 0.5]])
WANTED = torch.tensor([[1.0, 0.0], [0.0, 1.0]])


def test_cross_entropy_of_what_outputs_are() -> None:
    """The same probabilities, as logits or as they are, have one loss."""
    name, of_logits = loss_of("auto", "logits", classes=True)
    _, of_probabilities = loss_of("auto", "probabilities", classes=True)
    expected = -(math.log(1 / (1 + math.exp(-3))) + math.log(0.5)) / 2
    assert name == "cross_entropy"
    assert float(of_logits(LOGITS, WANTED)) == pytest.approx(expected)
    assert float(of_probabilities(LOGITS.softmax(1), WANTED)) == pytest.approx(expected)


def test_one_output_is_the_second_of_two_classes() -> None:
    score = torch.tensor([[1.0], [-2.0]])
    _, compute = loss_of("auto", "sigmoid", classes=True)
    _, of_probability = loss_of("auto", "probabilities", classes=True)
    expected = (math.log(1 + math.exp(1)) + math.log(1 + math.exp(2))) / 2
    assert float(compute(score, WANTED)) == pytest.approx(expected)
    assert float(of_probability(score.sigmoid(), WANTED)) == pytest.approx(expected)


def test_the_square_of_an_error() -> None:
    """Of probabilities too, where that is asked for: the sum over the classes, the mean over examples."""
    name, compute = loss_of("auto", "", classes=False)
    assert name == "squared"
    assert float(compute(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]]))) == 5.0
    _, of_classes = loss_of("squared", "logits", classes=True)
    p = 1 / (1 + math.exp(-3))
    assert float(of_classes(LOGITS, WANTED)) == pytest.approx((2 * (1 - p) ** 2 + 2 * 0.25) / 2)
    with pytest.raises(DatasetError, match="the module gives another shape"):
        compute(torch.zeros(1, 2), torch.zeros(1, 3))
    with pytest.raises(DatasetError, match="the labels are no classes"):
        loss_of("cross_entropy", "", classes=False)


def test_distance_to_a_teacher() -> None:
    for scores, classes in (("logits", True), ("", False)):
        compute = distance_to(scores, classes=classes)
        assert float(compute(LOGITS, LOGITS)) == pytest.approx(0, abs=1e-7)
        assert float(compute(LOGITS, -LOGITS)) > 0.1


# -- training -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "outputs", "last"),
    [
        ("labels: [low, high]", 2, ""),
        ("labels: [low, high], scores: probabilities", 2, ", torch.nn.Softmax(1)"),
        ("labels: [low, high], scores: sigmoid", 1, ""),
    ],
)
def test_classes_are_learned(tmp_path: Path, params: str, outputs: int, last: str) -> None:
    folder(tmp_path / "model", params, outputs, last)
    found = trained(tmp_path)
    assert found.loss == "cross_entropy"
    assert (found.examples, found.held_out) == (96, 24)
    assert found.held_out_losses[found.best] < 0.6 * found.held_out_losses[0]
    assert list(weights(tmp_path / "tuned.pt")) == ["0.weight", "0.bias", "3.weight", "3.bias"]
    assert not (tmp_path / "tuned.pt.checkpoint").exists()


def test_numbers_are_learned(tmp_path: Path) -> None:
    folder(tmp_path / "model", "outputs: [total]", 1)
    found = trained(tmp_path, classes=False)
    assert found.loss == "squared"
    assert found.held_out_losses[found.best] < 0.3 * found.held_out_losses[0]


def test_it_is_repeatable(tmp_path: Path) -> None:
    """From its seed; another seed gives other weights."""
    folder(tmp_path / "one" / "model")
    folder(tmp_path / "other" / "model")
    assert trained(tmp_path / "one").losses == trained(tmp_path / "other").losses
    assert same(tmp_path / "one" / "tuned.pt", tmp_path / "other" / "tuned.pt")
    trained(tmp_path / "other", replace(QUICK, seed=1))
    assert not same(tmp_path / "one" / "tuned.pt", tmp_path / "other" / "tuned.pt")


def test_penalties_make_weights_small(tmp_path: Path) -> None:
    folder(tmp_path / "model")
    sizes = {}
    for name, settings in {
        "none": replace(QUICK, weight_decay=0.0),
        "l1": replace(QUICK, penalty="l1", weight_decay=0.05),
        "l2": replace(QUICK, weight_decay=5.0),
    }.items():
        trained(tmp_path, settings)
        state = weights(tmp_path / "tuned.pt")
        sizes[name] = float(state["0.weight"].abs().sum() + state["3.weight"].abs().sum())
    assert sizes["l1"] < 0.9 * sizes["none"]
    assert sizes["l2"] < 0.9 * sizes["none"]


def test_a_distilled_module_stays_near(tmp_path: Path) -> None:
    folder(tmp_path / "model")
    losses = {}
    for share in (0.0, 0.99):
        losses[share] = trained(tmp_path, replace(QUICK, distill=share)).held_out_losses[-1]
    assert losses[0.99] > losses[0.0] + 0.05


def test_where_nothing_is_gained_nothing_is_written(tmp_path: Path) -> None:
    """A rate of 0 changes nothing; it ends after `patience` epochs."""
    folder(tmp_path / "model")
    found = trained(tmp_path, replace(QUICK, learning_rate=0.0, patience=2))
    assert (found.best, len(found.losses)) == (0, 3)
    assert not (tmp_path / "tuned.pt").exists()


# -- interrupted --------------------------------------------------------------------------------


class Stop(Exception):
    """Stands for whatever ends a run."""


@pytest.mark.parametrize("epoch", [1, 4])
def test_an_interrupted_run_goes_on_to_the_same_weights(tmp_path: Path, epoch: int) -> None:
    """After whichever of its epochs."""
    folder(tmp_path / "one" / "model")
    folder(tmp_path / "other" / "model")
    whole = trained(tmp_path / "one")
    source = load_model(tmp_path / "other" / "model")
    examples = read_dataset(data(tmp_path / "other" / "data.csv"))

    def stop(text: str) -> None:
        if text.startswith(f"epoch {epoch} of"):
            raise Stop

    file = tmp_path / "other" / "tuned.pt"
    with pytest.raises(Stop):
        finetune(source, examples, file, QUICK, progress=stop)
    assert not file.exists()
    found = finetune(source, examples, file, QUICK)
    assert found.resumed == epoch
    assert (found.losses, found.best) == (whole.losses, whole.best)
    assert same(tmp_path / "one" / "tuned.pt", file)


def test_killed(tmp_path: Path) -> None:
    """With -9 after an epoch: what is typed again goes on to the same weights, with augmentation, too."""
    settings = replace(QUICK, augment="load:augment")
    for name in ("one", "other"):
        folder(tmp_path / name / "model")
        data(tmp_path / name / "data.csv")
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from torchmar.dataset import read_dataset\n"
        "from torchmar.finetune import TrainingConfig, finetune\n"
        "from torchmar.spec import load_model\n"
        "def kill(text):\n"
        "    if text.startswith('epoch 3 of'):\n"
        "        os.kill(os.getpid(), 9)\n"
        "finetune(load_model(Path('model')), read_dataset(Path('data.csv')), Path('tuned.pt'),\n"
        f"    {settings!r}, progress=kill)\n"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    there = tmp_path / "other"
    done = subprocess.run([sys.executable, "-c", program], cwd=there, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert trained(there, settings).resumed == 3
    assert trained(tmp_path / "one", settings).resumed == 0
    assert same(tmp_path / "one" / "tuned.pt", there / "tuned.pt")


def test_a_checkpoint_of_something_else_is_left_aside(tmp_path: Path) -> None:
    """Of other settings, and what is no checkpoint at all."""
    folder(tmp_path / "model")
    (tmp_path / "tuned.pt.checkpoint").write_bytes(b"no checkpoint")
    assert trained(tmp_path).resumed == 0

    def stop(text: str) -> None:
        if text.startswith("epoch 2 of"):
            raise Stop

    source, examples = load_model(tmp_path / "model"), read_dataset(tmp_path / "data.csv")
    with pytest.raises(Stop):
        finetune(source, examples, tmp_path / "tuned.pt", QUICK, progress=stop)
    assert trained(tmp_path, replace(QUICK, learning_rate=0.01)).resumed == 0


# -- mistakes -----------------------------------------------------------------------------------


def test_a_label_that_no_class_has(tmp_path: Path) -> None:
    source = load_model(folder(tmp_path / "model"))
    rows = [
        Example(f"row {n}", b"[1, 2]", "application/json", label) for n, label in enumerate(("low", "mid"))
    ]
    with pytest.raises(DatasetError, match="row 1: label 'mid' is no class"):
        finetune(source, rows, tmp_path / "tuned.pt")
    with pytest.raises(DatasetError, match="give at least two examples"):
        finetune(source, rows[:1], tmp_path / "tuned.pt")


def test_a_request_that_the_handler_refuses(tmp_path: Path) -> None:
    source = load_model(folder(tmp_path / "model"))
    rows = [Example(f"row {n}", b"[1]", "application/json", "low") for n in range(2)]
    with pytest.raises(DatasetError, match="row 0: 1 values, the table has 2"):
        finetune(source, rows, tmp_path / "tuned.pt")


def test_what_has_no_source(tmp_path: Path) -> None:
    folder(tmp_path / "model")
    file = tmp_path / "model" / "model.yaml"
    file.write_text(file.read_text().replace("source: load:net", "source: {x: load:net, y: load:net}"))
    with pytest.raises(ExportError, match="fine-tuning needs `source` with one part"):
        trained(tmp_path)


# -- typed --------------------------------------------------------------------------------------


def test_the_command(tmp_path: Path) -> None:
    model, table = folder(tmp_path / "model"), data(tmp_path / "data.csv")
    out = tmp_path / "tuned.pt"
    words = ["finetune", str(model), "--data", str(table), "--out", str(out), "--epochs", "4"]
    done = CliRunner().invoke(app, [*words, "--learning-rate", "0.02"], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "cross_entropy on 24 held-out requests: " in done.stdout
    assert f"--weights {out}" in done.stdout.replace("\n", "")
    nothing = CliRunner().invoke(app, [*words, "--learning-rate", "0"])
    assert nothing.exit_code == 1
    assert "nothing was gained" in nothing.stdout
    wrong = CliRunner().invoke(app, [*words, "--penalty", "l3"])
    assert "--penalty l3: expected one of l2, l1" in str(wrong.exception)
    wrong = CliRunner().invoke(app, [*words, "--augment", "flop"])
    assert "augment: did you mean flip?" in str(wrong.exception)
