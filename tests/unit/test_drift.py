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
from torchmar.drift import Figures, Reference, drifts, figures_of

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
    assert found.classes == {"class": ["a", "c"]}


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
    page = tmp_path / "page.html"
    said = json.loads(typed("new.jsonl", "--report", str(page), "--json", code=1))
    assert {*said["drifted"]} == {"class", "confidence", "bytes of the request"}
    assert "drifted: " in page.read_text()
