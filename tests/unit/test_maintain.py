"""Maintenance: the decision is what its thresholds say; a good candidate enters the store, and no other."""

from __future__ import annotations

import json
import multiprocessing
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.live.servers import ROOT
from tests.maintained import write_rows, write_sums
from torchmar import mar
from torchmar.archive import build
from torchmar.dataset import read_dataset
from torchmar.drift import reference_of
from torchmar.errors import MaintenanceError
from torchmar.evaluate import Comparison, Score
from torchmar.finetune import TrainingConfig
from torchmar.maintain import (
    Data,
    Maintained,
    Observed,
    Settings,
    Thresholds,
    decide,
    maintain,
    refusals,
    write_report,
)
from torchmar.maintain._work import held
from torchmar.spec import load_model

# -- what is decided ----------------------------------------------------------------------------

QUIET = Observed(100, 0, "", (), labelled=100)
OLD = Score("accuracy", 0.95, 0.93, 0.97)


def accuracy(value: float, by: float = 0.02) -> Score:
    return Score("accuracy", value, value - by, value + by)


def rmse(value: float) -> Score:
    return Score("RMSE", value, 0.9 * value, 1.1 * value, higher=False)


@pytest.mark.parametrize(
    ("seen", "decision", "says"),
    [
        (QUIET, "nothing", "no figure has drifted"),
        (replace(QUIET, drifted=("class",)), "alarm", "drifted: class"),
        (replace(QUIET, refused=6, refusal="no picture"), "alarm", "6 of 100 new requests were refused"),
        (replace(QUIET, then=OLD, now=accuracy(0.94)), "nothing", "not worse by more than 2%"),
        (replace(QUIET, then=OLD, now=accuracy(0.94), drifted=("class",)), "nothing", "drifted: class"),
        (replace(QUIET, then=OLD, now=accuracy(0.80)), "retrain", "worse by more than 2%"),
        (replace(QUIET, then=OLD, now=accuracy(0.92)), "nothing", "not worse"),  # chance may explain it
        (replace(QUIET, then=OLD, now=accuracy(0.80), labelled=49), "alarm", "too few to train on"),
        (replace(QUIET, then=rmse(1.0), now=rmse(2.0)), "retrain", "worse"),
        (replace(QUIET, then=rmse(1.0), now=rmse(0.5)), "nothing", "not worse"),
    ],
)
def test_decisions(seen: Observed, decision: str, says: str) -> None:
    found, reasons = decide(seen, Thresholds())
    assert found == decision
    assert says in "; ".join(reasons)


@given(
    now=st.floats(0, 1),
    width=st.floats(0, 0.5),
    drop=st.floats(0, 1),
    drifted=st.booleans(),
    higher=st.booleans(),
)
def test_only_a_fall_beyond_chance_and_threshold_is_trained_for(
    now: float, width: float, drop: float, drifted: bool, higher: bool
) -> None:
    then, found = Score("m", 0.5, 0.4, 0.6, higher), Score("m", now, now - width, now + width, higher)
    figures = ("class",) if drifted else ()
    decision, _ = decide(replace(QUIET, then=then, now=found, drifted=figures), Thresholds(drop=drop))
    best = found.high - 0.5 if higher else 0.5 - found.low  # the best that the interval allows
    assert decision == ("retrain" if best < -drop * 0.5 else "nothing") or abs(best + drop * 0.5) < 1e-9


def comparison(by: float, low: float, high: float, p: float) -> Comparison:
    return Comparison("m", "1.0", "accuracy", 0.9, 0.9 + by, by, low, high, 200, 20, p)


BETTER, SAME = comparison(0.3, 0.2, 0.4, 0.001), comparison(0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("on_old", "on_new", "why"),
    [
        (SAME, BETTER, ""),
        (comparison(-0.01, -0.03, 0.01, 0.4), BETTER, ""),
        (comparison(-0.01, -0.015, -0.005, 0.01), BETTER, "on the old data it is worse"),
        (comparison(-0.05, -0.12, 0.01, 0.1), BETTER, "on the old data it is not shown to differ"),
        (SAME, SAME, "on the new data it is as good"),
        (SAME, comparison(0.1, -0.01, 0.2, 0.06), "on the new data it is not shown to differ"),
    ],
)
def test_what_a_candidate_is_refused_for(on_old: Comparison, on_new: Comparison, why: str) -> None:
    found = refusals(on_old, on_new, 0.02)
    assert [one.startswith(why) for one in found] == ([True] if why else [])


# -- a run --------------------------------------------------------------------------------------

SETTINGS = Settings(training=TrainingConfig(epochs=60, learning_rate=0.05, patience=20))
Run = Callable[..., Maintained]


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model folder, and its archive."""
    folder = write_sums(tmp_path_factory.mktemp("maintain") / "sums")
    return folder, build(load_model(folder), folder.parent / "store").archive.path


@pytest.fixture
def run(sums: tuple[Path, Path], tmp_path: Path) -> Run:
    """Maintains the archive with new rows, in a store and a folder of the test's own."""
    folder, archive = sums

    def act(
        name: str = "new", *, old: bool = True, progress: Any = lambda _: None, **rows: Any
    ) -> Maintained:
        new = write_rows(tmp_path / f"{name}.csv", **{"count": 200, "seed": 5, **rows})
        parts = [read_dataset(folder / f"{part}.csv") for part in ("train", "test")] if old else []
        return maintain(
            load_model(folder),
            mar.verify(archive),
            Data(read_dataset(new), *parts),
            tmp_path / "store",
            SETTINGS,
            work=tmp_path / "work",
            progress=progress,
        )

    return act


def in_store(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "store").glob("*")}


def test_nothing_to_do(run: Run, tmp_path: Path) -> None:
    found = run()
    assert (found.outcome, found.observed.drifted, in_store(tmp_path)) == ("nothing", (), {})


def test_drift_without_labels_is_an_alarm(run: Run, tmp_path: Path) -> None:
    found = run(labels="none", middle=5, old=False)
    assert (found.outcome, in_store(tmp_path)) == ("alarm", {})
    assert "a" in found.observed.drifted


def test_a_candidate_that_loses_what_was_right_is_refused(run: Run, tmp_path: Path) -> None:
    """The new labels say the opposite of the old ones."""
    found = run(labels="swapped")
    assert (found.outcome, in_store(tmp_path)) == ("refused", {})
    assert any("on the old data it is worse" in reason for reason in found.reasons), found.reasons


class Killed(BaseException):
    """Ends a run where it stands, as far as a test can within its own process."""


STAGES = ("epoch 3 ", "answering the requests of its reference")


def test_killed_at_any_stage_it_comes_to_the_same_archive(run: Run, tmp_path: Path) -> None:
    """Whatever was left, the store has nothing, or all of the candidate; the version is not counted on."""

    def until(stage: str) -> Callable[[str], None]:
        def progress(text: str) -> None:
            if text.startswith(stage) and (stage != STAGES[-1] or run_is_judged()):
                raise Killed

        return progress

    def run_is_judged() -> bool:
        return any((tmp_path / "work" / "weights").glob("*.pt"))

    for stage in STAGES:
        with pytest.raises(Killed):
            run(middle=5, progress=until(stage))
        assert in_store(tmp_path) == {}
    found = run(middle=5)
    assert [*in_store(tmp_path)] == ["sums-1.1.mar"]
    is_good(found, tmp_path)
    before = in_store(tmp_path)
    assert run(middle=5).archive == found.archive  # the same again changes nothing
    assert in_store(tmp_path) == before
    assert len([*(tmp_path / "work").glob("*/version.json")]) == 1


def is_good(found: Maintained, tmp_path: Path) -> None:
    """It is better on the new data, as good on the old, and says what it was made of."""
    assert found.outcome == "candidate", found.reasons
    assert found.archive == tmp_path / "store" / "sums-1.1.mar"
    archive = mar.verify(found.archive)
    lineage = archive.lineage
    assert lineage is not None
    assert lineage.parent == found.parent
    assert lineage.data == dict(found.data)
    assert lineage.weights_sha256 is not None
    assert (tmp_path / "work" / "weights" / f"{lineage.weights_sha256}.pt").is_file()
    old, new = lineage.metrics.values()
    assert old.value > 0.95
    assert new.value > 0.75
    assert found.observed.now is not None
    assert found.observed.now.value < 0.6
    reference = reference_of(archive)  # knows the new requests, too
    assert reference is not None
    assert reference.answered == 200


# -- mistakes -----------------------------------------------------------------------------------


def test_labels_need_what_was_learned(run: Run) -> None:
    with pytest.raises(MaintenanceError, match=r"give --train and --test"):
        run(old=False)


def test_the_folder_of_another_model(tmp_path: Path, sums: tuple[Path, Path]) -> None:
    folder = write_sums(tmp_path / "other")
    file = folder / "model.yaml"
    file.write_text(file.read_text().replace("name: sums", "name: other"))
    with pytest.raises(MaintenanceError, match=r"model.yaml: give the folder of sums: this is other"):
        maintain(load_model(folder), mar.verify(sums[1]), Data([]), tmp_path)


def _hold(work: Path, told: Any, until: Any) -> None:
    with held(work):
        told.set()
        until.wait(60)


def test_one_run_at_a_time(tmp_path: Path) -> None:
    """A second process is told to wait; when the first one has ended, in whatever way, it may work."""
    context = multiprocessing.get_context("fork")
    told, until = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, told, until))
    other.start()
    assert told.wait(60)
    with pytest.raises(MaintenanceError, match="wait for the other run"), held(tmp_path):
        pass
    other.kill()
    other.join()
    with held(tmp_path):
        pass


def test_a_run_leaves_a_page_and_json(run: Run, sums: tuple[Path, Path]) -> None:
    found = run(labels="none", old=False)
    page = write_report(found, mar.verify(sums[1]))
    assert json.loads((found.folder / "report.json").read_text())["outcome"] == "nothing"
    assert "nothing to do" in page.read_text()


def test_the_docs_python(
    sums: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """docs/maintenance.md's block, with another model in the place of its own."""
    shutil.copytree(sums[0], tmp_path / "models" / "digits")
    (tmp_path / "model_store").mkdir()
    shutil.copy(sums[1], tmp_path / "model_store" / "digits-1.0.mar")
    rows = read_dataset(sums[0] / "test.csv")
    for number, row in enumerate(rows[:60]):
        file = tmp_path / "data" / ("new", "train", "test")[number % 3] / str(row.label) / f"{number}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(row.read())
    monkeypatch.chdir(tmp_path)
    [block] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "maintenance.md").read_text(), re.S)
    exec(compile(block, "docs/maintenance.md", "exec"), {})
    assert capsys.readouterr().out.startswith("nothing\n")


def test_data_that_would_judge_themselves(sums: tuple[Path, Path], tmp_path: Path) -> None:
    same = read_dataset(sums[0] / "train.csv")
    with pytest.raises(MaintenanceError, match="give different data as --data, --train and --test"):
        maintain(load_model(sums[0]), mar.verify(sums[1]), Data(same, same, same), tmp_path)
