"""Drift of requests and answers: an archive's figures, no alarm by chance, and one where they have moved."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from typer.testing import CliRunner

from handlers.base import Array, BatchHandler, Decoded
from tests.live.servers import make_stranger
from torchmar import mar
from torchmar.cli import app
from torchmar.dataset import Example
from torchmar.drift import Figures, Reference, drifts, drifts_of_counts, figures_of
from torchmar.drift._vectors import projected
from torchmar.drift.divergences import counts_of

FIRST = json.dumps({"kind": "first", "by": "label"}).encode()
# The class is the text's first letter; "no" is refused.
HANDLER = """
def handle(data, context):
    answers = []
    for row in data or []:
        if row["body"] == "no":
            raise ValueError("no")
        answers.append([{"label": row["body"][0], "probability": 1 / len(row["body"])}])
    return answers
"""


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> mar.Archive:
    folder = tmp_path_factory.mktemp("letters")
    return mar.verify(make_stranger(folder, "letters", HANDLER, files={"MAR-INF/compare.json": FIRST}))


def texts(*bodies: str) -> list[Example]:
    return [Example(f"r{number}", body.encode(), "text/plain") for number, body in enumerate(bodies)]


# -- figures ------------------------------------------------------------------------------------


def test_figures_of_requests_and_answers(letters: mar.Archive) -> None:
    found = figures_of(letters, texts("ab", "no", "c"))
    assert (found.count, found.refused) == (2, 1)
    assert found.numbers == {"bytes of the request": [2.0, 1.0], "confidence": [0.5, 1.0]}
    assert found.classes == {"class": ["a", "c"], "outcome": ["answered", "refused", "answered"]}
    assert found.refusal.startswith("r1: 503")


def test_nothing_is_recorded_on_the_way(tmp_path: Path) -> None:
    """A handler that keeps requests for a replay keeps none of these: they are no traffic."""
    told = HANDLER.replace(
        "answers = []",
        "assert not context or 'record' not in context.model_yaml_config['handler']\n    answers = []",
    )
    config = {"handler": {"record": {"folder": str(tmp_path)}}}
    made = make_stranger(tmp_path, "letters", told, config=config, files={"MAR-INF/compare.json": FIRST})
    assert figures_of(mar.verify(made), texts("ab")).count == 1


def test_statistics_of_the_handler(tiny_eager: Path) -> None:
    """Of a picture its brightness and contrast, each picture decoded once."""
    golden = Path(__file__).parents[1] / "models" / "tiny" / "golden"
    pictures = [Example(file.name, file) for file in sorted(golden.iterdir()) if file.suffix != ".json"]
    found = figures_of(mar.verify(tiny_eager), pictures)
    assert found.count == len(pictures) > 0
    for name in ("pixels mean", "pixels deviation", "confidence"):
        assert len(found.numbers[name]) == found.count


def test_statistics_unless_they_are_overridden() -> None:
    class Mine(BatchHandler[None]):
        dynamic: ClassVar = {"ids": {1: "tokens"}}

        def example(self) -> dict[str, Array]:
            return {}

        def decode(self, request: object) -> Decoded:
            raise NotImplementedError

        def encode(self, output: object, about: object) -> None:
            return None

    found = Mine().statistics(
        {
            "pixels": np.array([[0, 200]], dtype=np.uint8),
            "ids": np.arange(7),
            "price": np.array(2.5),
            "none": np.zeros(0),
        }
    )
    assert found == {"pixels mean": 100.0, "pixels deviation": 100.0, "ids tokens": 7.0, "price": 2.5}


def test_outputs_are_vectors(tiny_eager: Path) -> None:
    """Those of a classifier are the probabilities of all classes, not of the likeliest alone."""
    golden = Path(__file__).parents[1] / "models" / "tiny" / "golden"
    found = figures_of(mar.verify(tiny_eager), [Example("a", golden / "noise.png")])
    [vector] = found.vectors["vector probabilities"]
    assert len(vector) > 1
    assert sum(vector) == pytest.approx(1.0, abs=0.01)


def test_an_output_that_varies_in_size_is_no_vector() -> None:
    """Neither before nor after its size has changed, and though projections have one size."""
    found = Figures()
    for size in (100, 101, 100, 100):
        found.add_vector("ids", np.ones(size))
        found.add_vector("scores", np.ones((2, 2)))
    assert found.vectors == {"scores": [(1.0, 1.0, 1.0, 1.0)] * 4}


def test_figures_are_rounded_where_machines_differ() -> None:
    """To four digits; of a vector to those of its largest number."""
    found = Figures()
    for one in (1234567.0, 0.98765432, float("nan"), float("inf")):
        found.add("size", one)
    found.add_vector("scores", np.array([0.9876543, 1.23456e-7]))
    found.add_vector("scores", np.array([np.nan, 1.0]))
    assert found.numbers == {"size": [1235000.0, 0.9877]}
    assert found.vectors == {"scores": [(0.9877, 0.0)]}


def test_projecting_keeps_distances() -> None:
    """Squared ones to about a fifth, and the same each time."""
    made = np.random.default_rng(0).normal(size=(40, 1000))
    kept = np.array([projected(one) for one in made])
    assert kept.shape == (40, 64)
    pairs = np.triu_indices(40, 1)
    ratios = [((one[:, None] - one) ** 2).sum(-1)[pairs] for one in (kept, made)]
    assert np.median(ratios[0] / ratios[1]) == pytest.approx(1.0, abs=0.05)
    assert (ratios[0] / ratios[1]).std() < 0.25
    assert projected(made[0]) == kept[0].tolist()


# -- verdicts -----------------------------------------------------------------------------------


def figures(count: int, seed: int, *, mean: float = 0.0, share: float = 0.5) -> Figures:
    generator = random.Random(seed)
    found = Figures()
    for _ in range(count):
        found.count += 1
        for name in ("brightness", "length", "confidence"):
            found.add(name, generator.gauss(mean if name == "brightness" else 0.0, 1))
        found.add("class", "a" if generator.random() < share else "b")
    return found


@pytest.mark.parametrize("few", [10, 50, 500])
def test_no_alarm_in_twenty_runs_of_unchanged_data(few: int) -> None:
    reference = Reference.of(figures(1500, 0))
    for seed in range(1, 21):
        assert [one.figure for one in drifts(reference, figures(few, seed)) if one.verdict != "same"] == []


def test_what_has_moved_is_named() -> None:
    """Within 500 requests, and nothing else is."""
    found = drifts(Reference.of(figures(1500, 0)), figures(500, 1, mean=0.8, share=0.9))
    verdicts = {one.figure: one.verdict for one in found}
    assert verdicts == {"class": "drifted", "brightness": "drifted", "length": "same", "confidence": "same"}
    assert [one.verdict for one in found] == ["drifted", "drifted", "same", "same"]


def test_a_class_that_was_never_seen() -> None:
    now = Figures(count=60, classes={"class": ["c"] * 60})
    [found] = drifts(Reference.of(figures(300, 0)), now)
    assert (found.verdict, {*found.bins}) == ("drifted", {"a", "b", "c"})
    assert (found.before[found.bins.index("c")], found.now[found.bins.index("c")]) == (0, 60)


def test_many_classes_are_counted_together() -> None:
    before = Figures(classes={"class": [str(n) for n in range(400)]})
    [found] = drifts(Reference.of(before), before)
    assert (len(found.bins), found.bins[-1], found.verdict) == (51, "(others)", "same")


def test_too_few_values_say_nothing() -> None:
    assert drifts(Reference.of(figures(300, 0)), figures(4, 1)) == []


def test_vectors_that_are_as_long_and_lie_elsewhere() -> None:
    """No number of them has moved: two that went together go apart."""
    generator = np.random.default_rng(0)

    def drawn(count: int, sign: float) -> Figures:
        found = Figures(count=count)
        for one in generator.normal(size=count):
            found.add_vector("vector embedding", np.array([one, sign * one]))
        return found

    reference = Reference.of(drawn(1000, 1.0))
    for _ in range(20):
        [same] = drifts(reference, drawn(40, 1.0))
        assert (same.verdict, same.psi) == ("same", None)
    [apart] = drifts(reference, drawn(40, -1.0))
    assert (apart.verdict, apart.figure) == ("drifted", "vector embedding")
    assert drifts(reference, drawn(4, -1.0)) == []


def test_live_counters_need_no_values() -> None:
    """Counts in the reference's bins give the same index as the values do."""
    reference, now = Reference.of(figures(1500, 0)), figures(500, 1, mean=0.8, share=0.9)
    numbers = {name: counts_of(now.numbers[name], one.edges) for name, one in reference.numbers.items()}
    classes = {"class": {"a": now.classes["class"].count("a"), "b": now.classes["class"].count("b")}}
    found = drifts_of_counts(reference, {**numbers, "unknown": [1]}, classes)
    by_values = {one.figure: (one.psi, one.verdict) for one in drifts(reference, now)}
    assert {one.figure: (one.psi, one.verdict) for one in found} == by_values
    with pytest.raises(ValueError, match="expected counts of the same bins"):
        drifts_of_counts(reference, {"length": [1, 2]}, {})


# -- typed --------------------------------------------------------------------------------------


def test_the_command(letters: mar.Archive, tmp_path: Path) -> None:
    """Exit code 1 for drift; the page shows it."""
    for name, words in (("old", ["ab", "ba", "aab"]), ("new", ["caaaa", "caaaaa"])):
        rows = [{"text": words[number % len(words)]} for number in range(60)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def typed(data: str, *more: str, code: int) -> str:
        words = ["drift", str(letters.path), "--reference", str(tmp_path / "old.jsonl")]
        words += ["--data", str(tmp_path / data), *more]
        done = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
        assert done.exit_code == code, done.output
        return done.stdout

    assert "drifted" not in typed("old.jsonl", code=0)
    (tmp_path / "refused.jsonl").write_text(60 * '{"text": "no"}\n')
    assert json.loads(typed("refused.jsonl", "--json", code=1))["drifted"] == ["outcome"]
    page = tmp_path / "page.html"
    said = json.loads(typed("new.jsonl", "--report", str(page), "--json", code=1))
    assert {*said["drifted"]} == {"class", "confidence", "bytes of the request"}
    assert "drifted: " in page.read_text()
