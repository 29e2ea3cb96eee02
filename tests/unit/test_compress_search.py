"""A search measures ways to compress, goes on where it ended, and chooses what nothing accepted beats."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.conftest import MakeOnce
from tests.unit.test_compress import write_mlp
from torchmar.cli import app
from torchmar.compress.search import (
    Figures,
    Point,
    Searched,
    Trial,
    best,
    columns,
    frontier,
    lines_of,
    mixed,
    points_of,
    rows_of,
    search,
    seconds_of,
    sentence,
    settings_of,
    write_report,
)
from torchmar.compress.search._choose import dominates
from torchmar.compress.search._run import _to_mix
from torchmar.errors import DatasetError, ExportError
from torchmar.mar import Accepted
from torchmar.spec import Compress, UnsafeEdit, edited, load_model

TWO = ("dynamic", "weights4")
FAST = 0.02  # seconds to time each model

figures = st.builds(
    Figures,
    name=st.text(max_size=3),
    bytes=st.integers(1, 5),
    time=st.sampled_from([0.5, 0.51, 0.8, 0.99, 1.0, 1.01, 2.0]),
    error=st.sampled_from([0.0, 0.1, 0.2, 0.5]),
    accepted=st.booleans(),
)


# -- the choice ---------------------------------------------------------------------------------


@given(st.lists(figures, max_size=12))
def test_the_frontier_is_complete(points: list[Figures]) -> None:
    """Nothing dominates a point of it, and a point of it dominates whatever is left out."""
    edge = frontier(points)
    assert not [one for one in edge if any(dominates(other, one) for other in points)]
    for one in points:
        assert one in edge or any(dominates(other, one) for other in edge)


@given(st.lists(figures, max_size=12))
def test_no_accepted_point_dominates_the_choice(points: list[Figures]) -> None:
    """It is accepted, not slower than the model as it is, and within 3 % of the fastest such."""
    found = best(points)
    eligible = [one for one in points if one.accepted and one.time <= 1]
    if found is None:
        assert not eligible
        return
    assert found in eligible
    assert not [one for one in points if one.accepted and dominates(one, found)]
    assert found.time <= 1.03 * min(one.time for one in eligible)


def test_of_those_as_fast_the_smallest_is_chosen() -> None:
    """A difference of 2 % is chance; one of 10 % is not."""
    fast, small = Figures("fast", 20, 0.50, 0.1), Figures("small", 10, 0.51, 0.1)
    assert best([fast, small]) == small
    assert best([fast, replace(small, time=0.55)]) == fast
    assert best([fast, replace(small, accepted=False)]) == fast
    assert best([replace(fast, time=1.2), replace(small, time=1.1)]) is None


# -- the points ---------------------------------------------------------------------------------


def test_the_points_of_a_model(tmp_path: Path) -> None:
    """Pruned ones need data to train on; each has a name of its own."""
    spec = load_model(write_mlp(tmp_path / "model")).spec
    names = [point.name for point in points_of(spec)]
    assert names == ["int8", "dynamic", "weights8", "weights4", "int8-entropy", "int8-percentile", "fp16"]
    assert spec.compress is not None
    trained = replace(spec, compress=replace(spec.compress, train="rows.jsonl", prune=0.3))
    more = [point.name for point in points_of(trained)]
    assert more[7:11] == ["prune30", "prune30-int8", "prune50", "prune50-int8"]
    assert len({*more}) == len(more)


@pytest.mark.parametrize(
    ("point", "line"),
    [
        (Point("int8", "minmax"), "{quantize: int8, calibration_share: 0.3, data: d}"),
        (Point("weights", bits=4), "{quantize: weights, bits: 4, data: d}"),
        (
            mixed(Point("int8", "entropy", prune=0.5)),
            "{quantize: int8, calibration: entropy, calibration_share: 0.3, prune: 0.5, data: d, train: t, "
            "epochs: 2}",
        ),
    ],
)
def test_what_model_yaml_says_of_a_point(point: Point, line: str) -> None:
    """What it does not need is left out; layers in float follow from `accept`."""
    given_ = Compress(data="d", calibration_share=0.3, train="t", epochs=2)
    assert lines_of(point, given_) == f"compress: {line}"
    assert {key for key, value in settings_of(point, given_).items() if value is None} >= {"bits"} - {
        *yaml.safe_load(line)
    }


# -- model.yaml ---------------------------------------------------------------------------------

BLOCK = """\
# on top
compress:  # how
  quantize: int8  # all of it
  calibration: entropy
  # the last pictures
  data: data
serving: {batchSize: 8}
"""


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("a: 1\n", {"quantize": "fp16"}, "a: 1\ncompress: {quantize: fp16}\n"),
        ("compress: {quantize: int8, data: x}  # why\n", {"bits": 4}, None),
        (
            "compress: {quantize: int8, calibration: entropy, data: x}  # why\n",
            {"quantize": "weights", "calibration": None, "bits": 4},
            "compress: {quantize: weights, data: x, bits: 4}  # why\n",
        ),
        (
            BLOCK,
            {"quantize": "weights", "calibration": None, "bits": 4},
            BLOCK.replace("int8", "weights")
            .replace("  calibration: entropy\n", "")
            .replace("  data: data\n", "  data: data\n  bits: 4\n"),
        ),
        (
            BLOCK.replace("\n", "\r\n"),
            {"data": None},
            BLOCK.replace("  data: data\n", "").replace("\n", "\r\n"),
        ),
    ],
)
def test_a_section_is_changed_in_place(text: str, values: dict[str, Any], expected: str | None) -> None:
    """Comments, order and ends of lines stay."""
    if expected is None:
        expected = text.replace("data: x", "data: x, bits: 4")
    assert edited(text, "compress", values) == expected


@pytest.mark.parametrize(
    "text", ["[]\n", "{compress: {data: x}}\n", "compress: x\n", "compress:\n", "", "compress: {data: [1]}\n"]
)
def test_what_cannot_be_changed_safely_is_left_alone(text: str) -> None:
    """A file in another form is not guessed at."""
    with pytest.raises(UnsafeEdit):
        edited(text, "compress", {"data": "y"})


words = st.text("ab,:{}[]#'\" ü", min_size=1, max_size=6)


@given(words, words)
def test_any_value_is_written_as_it_is_read(before: str, now: str) -> None:
    """Or it is refused."""
    text = "a: 1\n" + yaml.safe_dump({"compress": {"data": before, "bits": 4}})
    assert yaml.safe_load(edited(text, "compress", {"data": now}))["compress"] == {"data": now, "bits": 4}


# -- a search -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def searched(make_once: MakeOnce) -> Path:
    """A folder with the model that was searched, and the results. Copy the model to change it."""

    def fill(folder: Path) -> None:
        source = load_model(write_mlp(folder / "model"))
        found = search(source, 300.0, folder / "results.json", seconds=FAST, only=TWO)
        assert [one.name for one in found.trials] == list(TWO)

    return make_once("searched-mlp", fill)


def again(searched: Path, budget: float = 300.0, **options: Any) -> Searched:
    """The same search."""
    source = load_model(searched / "model")
    return search(source, budget, searched / "results.json", seconds=FAST, **{"only": TWO, **options})


def test_what_was_measured_is_not_measured_again(searched: Path) -> None:
    """Not even with no time left."""
    found = again(searched, 1e-9)
    assert (found.reused, found.left) == (2, ())
    assert [one.name for one in found.figures] == ["none", *TWO]
    for trial in found.trials:
        assert trial.price is not None
        assert trial.latency is not None
        assert {*trial.latency} == {"float", "compressed"}
        # All points are measured on the same examples, also those that need no ranges.
        assert (trial.price["examples"], trial.price["calibrated_on"]) == (32, 0)
        assert trial.price["metric"]["name"] == "RMSE"


def test_the_choice_keeps_what_was_measured(searched: Path, tmp_path: Path) -> None:
    """And so do a version and a comment; another `accept` or other data do not."""
    said = (searched / "model" / "model.yaml").read_text()
    for change, reused in (
        (lambda text: f"# new\n{text}".replace("quantize: int8", "quantize: weights"), 2),
        (lambda text: text.replace("max_abs_error: 0.9", "max_abs_error: 0.8"), 0),
    ):
        folder = tmp_path / str(reused)
        write_mlp(folder)
        assert change(said) != said
        (folder / "model.yaml").write_text(change(said))
        found = search(load_model(folder), 1e-9, searched / "results.json", seconds=FAST, only=TWO)
        assert (found.reused, len(found.left)) == (reused, 2 - reused)


def test_the_budget_ends_a_search(tmp_path: Path) -> None:
    """The clock is past it when the second point begins: that one is left for the next search."""
    source = load_model(write_mlp(tmp_path / "model"))
    told: list[str] = []

    def clock() -> float:
        return 100.0 if any(text.startswith("weights4") for text in told) else 0.0

    def tell(text: str) -> None:
        told.append(text)

    results = tmp_path / "results.json"
    found = search(source, 50.0, results, seconds=FAST, only=TWO, progress=tell, clock=clock)
    assert ([one.name for one in found.trials], found.left) == (["dynamic"], ("weights4",))
    assert "not measured: the budget was used up" in rows_of(found, None)[-1]
    assert len(json.loads(results.read_text())["trials"]) == 1


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path) -> None:
    """The file has the first point when the second one is interrupted."""

    def tell(text: str) -> None:
        if text.startswith("weights4") and "comparing" in text:
            raise KeyboardInterrupt

    results, source = tmp_path / "results.json", load_model(write_mlp(tmp_path / "model"))
    with pytest.raises(KeyboardInterrupt):
        search(source, 300.0, results, seconds=FAST, only=TWO, progress=tell)
    assert [one["point"]["quantize"] for one in json.loads(results.read_text())["trials"].values()] == [
        "dynamic"
    ]


def test_a_file_that_holds_something_else_is_not_overwritten(tmp_path: Path) -> None:
    """It may be anybody's."""
    (tmp_path / "results.json").write_text("[1]")
    with pytest.raises(DatasetError, match="holds no results of a search"):
        search(load_model(write_mlp(tmp_path / "model")), 1.0, tmp_path / "results.json")


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400), (" 2 m ", 120)])
def test_a_budget(text: str, seconds: float) -> None:
    """With its unit."""
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["10", "m", "0s", "-1m", "1d", "10 minutes", ""])
def test_no_budget(text: str) -> None:
    """What is meant is not guessed."""
    with pytest.raises(ExportError, match="--budget"):
        seconds_of(text)


# -- what is shown and written ------------------------------------------------------------------


def trial(point: Point, size: int, p50: float, cost: float, **more: Any) -> Trial:
    """A point with these figures; the uncompressed model takes 1 ms."""
    price = {
        "bytes": {"float": 1000, "compressed": size},
        "cost": {"value": cost, "low": cost, "high": cost},
        "agreement": 1.0,
        "golden": 0,
        "golden_differing": [],
        "max_abs_error": 0.1,
        "layers": 4,
        "layers_in_float": [],
        "metric": None,
        **more,
    }
    times = {"float": 1.0, "compressed": p50}
    latency = {name: {"1": {"p50_ms": each, "p99_ms": each}} for name, each in times.items()}
    return Trial(point, price, latency, {"float": None, "compressed": None})


@pytest.fixture
def found() -> Searched:
    """A search with a good point, a dominated one, one that is not accepted, and one that failed."""
    trials = (
        trial(Point("int8", "minmax"), 300, 0.5, 0.02),
        trial(Point("dynamic"), 400, 1.2, 0.03),
        trial(Point("weights", bits=4), 200, 0.4, 0.5),
        Trial(Point("fp16"), problem="ONNX Runtime cannot do it: <b>"),
    )
    accepts = Accepted(max_abs_error=0.2, agreement=0.9, cost=0.1)
    return Searched("m", "1.0", "Abacus", "1", accepts, trials, ("prune50",), 0, 1.0, Path("r.json"))


def test_what_is_fast_and_not_accepted_is_tried_with_layers_in_float(found: Searched) -> None:
    """The fastest first; not what was only pruned, nor what is slower than the model as it is."""
    slow = trial(Point("int8", "entropy"), 300, 1.1, 0.6)
    pruned = trial(Point(prune=0.5), 300, 0.3, 0.6)
    fastest = trial(Point("int8", "percentile"), 300, 0.2, 0.6)
    again = _to_mix([*found.trials, slow, pruned, fastest], "1", found.accepts)
    assert [point.name for point in again] == ["int8-percentile-mixed", "weights4-mixed"]


def test_the_table(found: Searched) -> None:
    """Each point with its verdict."""
    assert found.best is not None
    assert found.best.name == "int8"
    verdicts = {row[0]: row[-1] for row in rows_of(found, "int8")}
    assert verdicts == {
        "none": "the model as it is, frontier",
        "int8": "chosen, frontier, accepted",
        "dynamic": "dominated by int8, slower here, accepted",
        "weights4": "frontier, not accepted: cost 0.5 exceeds 0.1",
        "fp16": "ONNX Runtime cannot do it: <b>",
        "prune50": "not measured: the budget was used up",
    }
    assert {len(row) for row in rows_of(found, "int8")} == {len(columns(found))}
    assert sentence(found, "int8").startswith("int8, the best that `accept` takes: ")
    assert "leave `compress` out" in sentence(found, None)
    assert ", slower here, " in sentence(found, "dynamic")


def test_the_page(found: Searched, tmp_path: Path) -> None:
    """It has both plots with the names, and runs nothing of what it was told."""
    write_report(tmp_path / "page.html", found, "int8", "torchmar compress")
    page = (tmp_path / "page.html").read_text()
    assert "Beyond the right edge" not in page
    slow = replace(found, trials=(*found.trials, trial(Point("int8", "entropy"), 300, 9.0, 0.02)))
    write_report(tmp_path / "slow.html", slow, "int8", "torchmar compress")
    assert "Beyond the right edge: int8-entropy (9)" in (tmp_path / "slow.html").read_text()
    assert page.count("<svg") == 2
    assert all(f">{name}</text>" in page for name in ("none", "int8", "weights4"))
    assert "<b>" not in page
    assert '<tr class="won"><td>int8</td>' in page


def command(folder: Path, results: Path, *words: str) -> Any:
    """What the command prints, without measuring anything again."""
    options = ["--results", str(results), "--seconds", str(FAST), "--budget", "300s"]
    only = [word for name in TWO for word in ("--only", name)]
    return CliRunner().invoke(app, ["compress", str(folder), "--search", *options, *only, *words])


def test_the_command_writes_the_choice(searched: Path, tmp_path: Path) -> None:
    """With the comments, and in a form that is read; a page beside it."""
    folder = write_mlp(tmp_path / "model")
    file = folder / "model.yaml"
    file.write_text(f"# mine\n{file.read_text()}")
    page = tmp_path / "page.html"
    done = command(folder, searched / "results.json", "--choose", "weights4", "--json", "--report", str(page))
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert (facts["chosen"], facts["written"], facts["reused"]) == ("weights4", True, 2)
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert file.read_text().startswith("# mine\n")
    spec = load_model(folder).spec
    assert spec.compress == Compress(data="rows.jsonl", quantize="weights", bits=4)


def test_a_model_without_the_section_is_given_its_data(tmp_path: Path) -> None:
    """Also where `accept` has a line for it already; without any data it says so."""
    folder = write_mlp(tmp_path / "model")
    file = folder / "model.yaml"
    said = yaml.safe_load(file.read_text())
    del said["compress"]
    file.write_text(yaml.safe_dump(said))
    unknown = command(folder, tmp_path / "results.json", "--dry-run")
    assert "give --data" in str(unknown.exception)
    file.write_text(yaml.safe_dump({**said, "accept": {**said["accept"], "cost": 9.0}}))
    words = ["--data", "rows.jsonl", "--only", "dynamic", "--json", "--choose", "dynamic"]
    results = ["--results", str(tmp_path / "results.json"), "--seconds", str(FAST)]
    done = CliRunner().invoke(app, ["compress", str(folder), "--search", *words, *results])
    assert done.exit_code == 0, done.output
    assert load_model(folder).spec.compress == Compress(data="rows.jsonl", quantize="dynamic")


def test_without_a_search_the_price_is_shown(tmp_path: Path) -> None:
    """That of model.yaml's own `compress`; no archive is built, and nothing is left."""
    folder = write_mlp(tmp_path / "model", "dynamic")
    before = sorted(folder.rglob("*.*"))
    done = CliRunner().invoke(app, ["compress", str(folder), "--seconds", str(FAST), "--json"])
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert (facts["price"]["quantize"], facts["price"]["examples"]) == ("dynamic", 40)
    assert {*facts["speed"]["latency"]} == {"float", "compressed"}
    assert [file for file in sorted(folder.rglob("*.*")) if "__pycache__" not in str(file)] == before


def test_nothing_is_written_where_it_is_not_wanted(searched: Path, tmp_path: Path) -> None:
    """By --dry-run, and for a name that there is not."""
    folder = write_mlp(tmp_path / "model")
    before = (folder / "model.yaml").read_text()
    done = command(folder, searched / "results.json", "--choose", "weights4", "--dry-run")
    assert done.exit_code == 0, done.output
    assert "unchanged; it would say" in done.stdout
    assert "compress: {quantize: weights, bits: 4, data: rows.jsonl}" in done.stdout
    failed = command(folder, searched / "results.json", "--choose", "int8")
    assert "--choose int8: expected one of dynamic, weights4" in str(failed.exception)
    assert (folder / "model.yaml").read_text() == before
