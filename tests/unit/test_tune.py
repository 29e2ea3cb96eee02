"""The tuner without a server: what it tries, what it decides, what it writes."""

from __future__ import annotations

import json
import math
import re
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from torchmar import mar
from torchmar.errors import TuneError
from torchmar.measure.tune import (
    COLUMNS,
    Candidate,
    Limits,
    Rounds,
    Settings,
    Space,
    Trial,
    Tuned,
    challengers,
    changed,
    decide,
    frontier,
    lines_of,
    milliseconds,
    render_html,
    require_changeable,
    rows_of,
    search,
    sentence,
    settings_of,
    size_in_bytes,
    write,
)
from torchmar.measure.tune._served import config_of, requests_of
from torchmar.measure.tune._values import Verdict

from .strangers import FUNCTION, write_folder

LIMITS = Limits(80.0)


def trial(workers: int, rps: float, p99: float, **options: Any) -> Trial:
    verdict = "ok" if p99 <= LIMITS.p99_ms else "slow"
    one = Candidate(workers, 1, options.pop("batch_size", 1), options.pop("max_batch_delay", 0))
    return Trial(one, verdict, rps, p99 / 2, p99, 300_000_000, **options)  # type: ignore[arg-type]


# -- the search ---------------------------------------------------------------------------------


def drive(default: Candidate, space: Space, machine: Any) -> list[Trial]:
    """The search against a machine that is a function."""
    trials: list[Trial] = []
    plan = search(default, space)
    candidate = next(plan, None)
    while candidate is not None:
        trials.append(replace(machine(candidate), default=not trials))
        try:
            candidate = plan.send(trials[-1])
        except StopIteration:
            break
    return trials


candidates = st.builds(
    Candidate,
    workers=st.integers(1, 70),
    threads=st.integers(1, 64),
    batch_size=st.sampled_from([1, 2, 3, 8, 16]),
    max_batch_delay=st.sampled_from([0, 1, 5, 200]),
)
spaces = st.builds(
    Space,
    cpus=st.integers(1, 64),
    max_workers=st.none() | st.integers(1, 64),
    max_batch=st.integers(1, 32),
)
VERDICTS: tuple[Verdict, ...] = ("ok", "slow", "memory", "given up", "failed")
figures = st.tuples(
    st.sampled_from(VERDICTS),
    st.none() | st.floats(0, 1e4),
    st.none() | st.floats(0, 1e4),
)


@given(default=candidates, space=spaces, data=st.data())
def test_it_ends_and_tries_nothing_twice(default: Candidate, space: Space, data: st.DataObject) -> None:
    """Whatever the machine says; and never more than it announced, nor more than it may."""

    def machine(candidate: Candidate) -> Trial:
        verdict, rps, p99 = data.draw(figures)
        return Trial(candidate, verdict, rps, p99, p99)

    trials = drive(default, space, machine)
    tried = [one.candidate for one in trials]
    assert tried[0] == default
    assert len(set(tried)) == len(tried) <= space.bound(default)
    for one in tried[1:]:
        assert one.workers <= max(default.workers, space.max_workers or space.cpus + 1)
        assert one.batch_size <= max(default.batch_size, space.max_batch)
        assert one.threads is not None
        assert default.threads is not None
        assert one.threads * one.workers <= max(space.cpus + 1, default.threads * default.workers)


@pytest.mark.parametrize(
    ("default", "space", "most"),
    [
        # The default is a split itself; the splits 1 and 2, batches of 2, three more delays.
        (Candidate(1, 2, 1, 0), Space(2, 2, 2), 2 + 2 * 1 + 3),
        (Candidate(1, 2, 1, 0), Space(2, 1, 1), 1),
        (Candidate(1, 2, 8, 100), Space(2, 1, 1), 2 + 4),
        (Candidate(1, 2, 1, 0), Space(2), 3 + 2 * 4 + 3),
    ],
)
def test_what_is_announced_is_what_can_be_tried(default: Candidate, space: Space, most: int) -> None:
    """A search that was narrowed announces fewer."""
    assert space.bound(default) == most


def test_requests_of_any_kinds(tmp_path: Path) -> None:
    """They are sent in turn, each with a content type of its own."""
    for name in ("a.json", "b.txt", "c.jpg"):
        (tmp_path / "MAR-INF" / "golden" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "MAR-INF" / "golden" / name).write_text(name)
    write_folder(tmp_path, FUNCTION, "handler.py", {"MAR-INF/golden/answers.json": "{}"}, {})
    sent = requests_of(mar.read(tmp_path), ())
    assert [file.name for file in sent] == ["a.json", "b.txt", "c.jpg"]


@st.composite
def machines(draw: st.DrawFn) -> Any:
    """A machine whose rate is that of the split times what a batch gains, less and less with each doubling.

    8 clients in a closed loop: a higher rate is a lower latency.
    """
    base = draw(st.floats(10, 1000))
    favourite = draw(st.integers(1, 17))
    gains = sorted(draw(st.lists(st.floats(0.6, 1.9), min_size=4, max_size=4)), reverse=True)
    patience = draw(st.floats(0, 0.02))

    def rate(one: Candidate) -> float:
        split = base / (1 + abs(math.log2(one.workers / favourite)))
        steps = round(math.log2(one.batch_size))
        return split * math.prod(gains[:steps]) / (1 + patience * one.max_batch_delay)

    def machine(one: Candidate) -> Trial:
        p99 = 8 / rate(one) * 1100
        return Trial(one, "ok" if p99 <= LIMITS.p99_ms else "slow", rate(one), p99 / 1.1, p99)

    return machine


@given(machine=machines(), cpus=st.integers(1, 16))
@settings(max_examples=300)
def test_it_finds_the_best_of_a_monotone_machine(machine: Any, cpus: int) -> None:
    """Within what four steps may lose that each gain no more than the noise."""
    space = Space(cpus)
    trials = drive(Candidate(1, cpus), space, machine)
    every = [
        machine(replace(split, batch_size=size, max_batch_delay=delay))
        for split in space.splits()
        for size, delay in [(1, 0), *((size, 1) for size in space.batches())]
    ]
    best = max((one.rate for one in every if one.holds), default=None)
    found = max((one.rate for one in trials if one.holds), default=None)
    if best is not None and best > 8 * 1100 / LIMITS.p99_ms * 1.13:  # and not only just feasible
        assert found is not None
        assert found >= best / 1.03**4


def test_coarse_to_fine() -> None:
    """On four processors: splits, batches of the best two, then delays."""
    rates = {1: 100.0, 2: 150.0, 4: 140.0, 5: 130.0}

    def machine(one: Candidate) -> Trial:
        gain = {1: 1.0, 2: 1.2, 4: 1.1, 8: 1.0, 16: 1.0}[one.batch_size]
        return replace(trial(one.workers, rates[one.workers] * gain, 50.0), candidate=one)

    tried = [str(one.candidate) for one in drive(Candidate(1, 4), Space(4), machine)]
    assert tried[:4] == ["1 × 4", "2 × 2", "4 × 1", "5 × 1"]
    assert tried[4:8] == [f"{split}, batch {b}, 1 ms" for split in ("2 × 2", "4 × 1") for b in (2, 4)]
    assert tried[8:] == [f"2 × 2, batch 2, {delay} ms" for delay in (2, 5, 10)]


def test_the_challenger_is_the_one_with_the_lowest_p99_of_those_that_differ_by_chance() -> None:
    default = trial(1, 100.0, 70.0, default=True)
    fast, near, slow, breaks = trial(2, 200, 60), trial(3, 198, 40), trial(4, 90, 10), trial(5, 300, 90)
    assert challengers([default, fast, near, slow, breaks], 0.03) == [near, fast]
    assert challengers([default, slow], 0.03) == []
    assert challengers([replace(default, verdict="slow"), slow], 0.03) == [slow]


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), max_size=12))
def test_nothing_beats_what_is_on_the_frontier(points: list[tuple[int, int]]) -> None:
    trials = [trial(number + 1, float(rate), float(p99)) for number, (rate, p99) in enumerate(points)]
    edge = frontier(trials)
    assert bool(edge) == bool(trials)
    for one in trials:
        beaten = any(
            other.rate >= one.rate
            and other.tail <= one.tail
            and (other.rate, -other.tail) != (one.rate, -one.tail)
            for other in trials
        )
        assert (one in edge) != beaten


# -- the decision -------------------------------------------------------------------------------


def rounds(workers: int, *rates: float, p99: float = 50.0) -> Rounds:
    return Rounds(Candidate(workers, 1), tuple(trial(workers, rate, p99) for rate in rates))


@pytest.mark.parametrize(
    ("default", "winner", "kind"),
    [
        (rounds(1, 100, 102, 98), rounds(2, 120, 121, 119), "better"),
        (rounds(1, 100, 102, 98), rounds(2, 103, 104, 103), "as good"),  # within the spread of the default
        (rounds(1, 100, 100, 100), rounds(2, 105, 120, 90), "as good"),  # within that of the winner
        (rounds(1, 100, 102, 98), None, "as good"),
        (rounds(1, 100, 102, 98), rounds(2, 200, 200, 200, p99=90), "as good"),
        (rounds(1, 100, 102, 98, p99=90), rounds(2, 60, 60, 60), "rescued"),
        (None, rounds(2, 60, 60, 60), "rescued"),
        (rounds(1, 100, 102, 98, p99=90), rounds(2, 200, 200, 200, p99=90), "none"),
        (rounds(1, 100, 102, 98, p99=90), None, "none"),
        (None, None, "none"),
    ],
)
def test_decide(default: Rounds | None, winner: Rounds | None, kind: str) -> None:
    assert decide(default, winner, LIMITS) == kind


def test_a_winner_must_keep_the_memory_and_never_fail() -> None:
    default, winner = rounds(1, 100, 100), rounds(2, 200, 200)
    assert decide(default, winner, Limits(80, 200_000_000)) == "none"
    failed = replace(winner.trials[1], verdict="failed", reason="requests failed: 1 timeout")
    assert decide(default, Rounds(winner.candidate, (winner.trials[0], failed)), LIMITS) == "as good"


# -- what people write --------------------------------------------------------------------------


@given(st.floats(0.001, 10_000).map(lambda value: round(value, 3)))
def test_times(value: float) -> None:
    assert milliseconds(f"{value:.3f}ms") == pytest.approx(value)
    assert milliseconds(f" {value:.3f} s") == pytest.approx(value * 1000)


@given(st.integers(1, 10_000), st.sampled_from(["K", "M", "G"]), st.sampled_from(["", "B", "b"]))
def test_sizes(value: int, unit: str, suffix: str) -> None:
    power = "KMG".index(unit) + 1
    assert size_in_bytes(f"{value}{unit}{suffix}") == value * 1000**power
    assert size_in_bytes(f"{value} {unit.lower()}i{suffix}") == value * 1024**power


@given(st.text(max_size=8))
def test_anything_else_is_one_clear_error(text: str) -> None:
    for parse, option in ((milliseconds, "--p99"), (size_in_bytes, "--memory")):
        said = ""
        try:
            assert 0 < parse(text) < math.inf
        except TuneError as error:
            said = str(error)
        assert not said or (option in said and "with its unit" in said)


@pytest.mark.parametrize("text", ["80", "0ms", "-1s", "1e3ms", "nan s", "", "80 m", "٣ms", "inf s"])
def test_no_times(text: str) -> None:
    with pytest.raises(TuneError, match="as 80ms"):
        milliseconds(text)


# -- model.yaml ---------------------------------------------------------------------------------

HEAD = "# a model\nname:   tiny  # its name\ninput:\n    image: { size: [32, 32] }\n"
SERVING = {
    "flow": "serving: {minWorkers: 1, threads: auto, responseTimeout: 10}  # tuned by hand\n",
    "spread flow": "serving: { minWorkers: 1,  # one\n  batchSize: 4,\n}\n",
    "block": "serving:\n  # why\n  minWorkers: 1   # one\n  batchSize: 8 # eight\ngolden: golden\n",
    "block at the end": "serving:\n    jobQueueSize: 7",
    "none": "golden: golden",
    "windows": "serving:\r\n  minWorkers: 1 # one\r\ngolden: golden\r\n",
    "quoted key": 'serving: {"threads": 3}\n',
}


@pytest.mark.parametrize("form", SERVING)
@pytest.mark.parametrize("candidate", [Candidate(2, 1), Candidate(3, 4, 8, 5)])
def test_only_the_values_change(form: str, candidate: Candidate) -> None:
    """The data is as before but for them, every comment is there, and whatever was before stands."""
    text = HEAD + SERVING[form]
    result = changed(text, candidate)
    before, after = yaml.safe_load(text), yaml.safe_load(result)
    serving = {**before.get("serving", {}), **settings_of(candidate)}
    assert after == {**before, "serving": serving}
    assert result.startswith(HEAD)
    assert re.findall("#.*", text) == re.findall("#.*", result)
    assert changed(result, candidate) == result


def test_a_line_stays_a_line() -> None:
    text = "serving: {minWorkers: 1, maxWorkers: 1, batchSize: 1, responseTimeout: 30}\n"
    assert changed(text, Candidate(2, 1)) == (
        "serving: {minWorkers: 2, maxWorkers: 2, batchSize: 1, responseTimeout: 30, threads: 1}\n"
    )
    assert lines_of(Candidate(2, 1)) == "serving: {minWorkers: 2, maxWorkers: 2, threads: 1, batchSize: 1}"


@pytest.mark.parametrize(
    "text",
    [
        "serving: {minWorkers: &n 1, maxWorkers: *n}\n",
        "base: &b {minWorkers: 1}\nserving: *b\n",
        "serving: {}\n",
        "serving:\n",
        "serving: 3\n",
        "{serving: {minWorkers: 1}}\n",
        "serving: {minWorkers: {}}\n",
        "serving: [\n",
        "- 1\n",
        "",
    ],
)
def test_what_cannot_be_changed_safely_is_told(text: str) -> None:
    with pytest.raises(TuneError, match=re.escape("by hand: serving: {minWorkers: 2")):
        changed(text, Candidate(2, 1))


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    """With its mode, through a link, and nothing beside it."""
    file, link = tmp_path / "real.yaml", tmp_path / "model.yaml"
    file.write_text(HEAD + SERVING["flow"])
    file.chmod(0o640)
    link.symlink_to(file)
    require_changeable(link)
    write(link, Candidate(2, 1))
    assert link.is_symlink()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert yaml.safe_load(file.read_text())["serving"]["minWorkers"] == 2
    assert sorted(tmp_path.iterdir()) == [link, file]


# -- what is served -----------------------------------------------------------------------------


def test_a_candidate_changes_the_config_and_nothing_else_of_it() -> None:
    config = {"minWorkers": 1, "maxBatchDelay": 5, "handler": {"artifact": "model.onnx", "threads": "auto"}}
    before = json.dumps(config)
    handler = {"artifact": "model.onnx", "threads": 2, "workers": 3}
    expected = {"minWorkers": 3, "maxWorkers": 3, "batchSize": 1, "maxBatchDelay": 5, "handler": handler}
    assert config_of(config, Candidate(3, 2)) == expected
    assert config_of(config, Candidate(3, 2, 4, 9)) == {**expected, "batchSize": 4, "maxBatchDelay": 9}
    assert json.dumps(config) == before


def test_what_a_handler_of_torchserves_kind_decides_itself_is_left_alone() -> None:
    """Workers, batches and delays are searched; its section `handler` and model.yaml get no threads."""
    space = Space(4, threads=False)
    assert [str(one) for one in space.splits()] == ["1 worker", "2 workers", "4 workers", "5 workers"]
    for config in ({"handler": {"word": "hi"}}, {"handler": "text"}, {}):
        changed_ = config_of(config, Candidate(2, None, 4, 9))
        serving = {"minWorkers": 2, "maxWorkers": 2, "batchSize": 4, "maxBatchDelay": 9}
        assert changed_ == {**config, **serving}
    assert lines_of(Candidate(2, None)) == "serving: {minWorkers: 2, maxWorkers: 2, batchSize: 1}"
    alone = replace(tuned(), default=Candidate(1, None))
    assert sentence(alone).endswith("; threads are unchanged: its handler chooses them itself")


# -- the report ---------------------------------------------------------------------------------


def tuned(kind: str = "better", **options: Any) -> Tuned:
    trials = (
        trial(1, 100, 70, default=True),
        trial(2, 170, 50),
        trial(2, 160, 95, batch_size=4, max_batch_delay=1, reason="p99 is above the target"),
        replace(trial(3, 0, 0), verdict="failed", rps=None, p50_ms=None, p99_ms=None, reason="<no> module"),
    )
    values = {
        "default_rounds": rounds(1, 100, 101, 102),
        "winner_rounds": rounds(2, 170, 169, 171),
        "trials": trials,
        **options,
    }
    return Tuned(
        name="tiny",
        version="1.0",
        contents_sha256="ab" * 32,
        limits=LIMITS,
        settings=Settings(),
        kind=kind,  # type: ignore[arg-type]
        default=trials[0].candidate,
        machine={"processors": "2"},
        at="2026-01-01T00:00:00+00:00",
        seconds=61.0,
        **values,
    )


def test_the_table_has_a_line_for_each() -> None:
    rows = rows_of(tuned())
    assert all(len(row) == len(COLUMNS) for row in rows)
    assert rows[0][-1] == "ok (default)"
    assert rows[1][-1] == "ok (winner, frontier)"
    assert rows[2][-1] == "slow: p99 is above the target"
    assert rows[3][3:8] == ("–", "–", "–", "–", "300")
    assert rows[3][-1] == "failed: <no> module"


def test_the_sentence() -> None:
    """It says plainly what came of it."""
    assert sentence(tuned()).startswith("2 × 1 beats the default, 1 × 1: 170.0 requests/s")
    assert sentence(tuned("as good")).startswith("the default is as good: 1 × 1, 101.0 requests/s")
    assert "nothing else that keeps p99 ≤ 80 ms" in sentence(tuned("as good", winner_rounds=None))
    assert sentence(tuned("rescued")).startswith("2 × 1 keeps p99 ≤ 80 ms")
    none = tuned("none", trials=(trial(1, 50, 160, default=True), trial(2, 70, 110)))
    assert "no configuration keeps p99 ≤ 80 ms; the nearest is 2 × 1: p99 110 ms" in sentence(none)
    dead = replace(trial(1, 0, 0, default=True, reason="it died"), verdict="failed", p99_ms=None)
    assert sentence(tuned("none", trials=(dead,))) == "no configuration could be measured: it died"


def test_the_page_needs_nothing_besides_itself() -> None:
    """One drawing in the page's own colours, the table, escaped; no address that is fetched."""
    page = render_html(tuned(), "torchmar tune 'tiny & co.mar'")
    assert page.count("<svg") == 1
    assert [page.count(f">{name}<") for name in ("requests per second", "p99, ms", "2 × 1")] == [1, 1, 2]
    assert "&lt;no&gt; module" in page
    assert "tiny &amp; co" in page
    assert not re.search(r"(src|href)=\"(?!#)|url\((?!#)|@import", page)
    assert render_html(tuned(), "x") == render_html(tuned(), "x")
