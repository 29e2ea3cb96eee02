"""Statistics, ratios, tables and the page, from recorded figures."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.limit import Limit
from benchmarks.measure import Visit, same, wrong_answers
from benchmarks.report import as_json, comparison, failures, spread, system_entry
from benchmarks.rounds import Entry
from benchmarks.tables import BEGIN, END, into_page, markdown, tables
from torchmar.measure.load import Answer, Result

OURS = (
    '[{"label": "cat", "index": 1, "probability": 0.75}, {"label": "dog", "index": 2, "probability": 0.25}]'
)


def result(clients: int, rps: float, kinds: dict[str, int] | None = None, text: str = OURS) -> Result:
    kinds = kinds or {}
    return Result(
        clients=clients,
        seconds=10.0,
        requests=int(rps * 10),
        rps=rps,
        p50_ms=1000 * clients / rps,
        p90_ms=1100 * clients / rps,
        p99_ms=1200 * clients / rps,
        max_ms=1300 * clients / rps,
        errors=sum(kinds.values()),
        kinds=kinds,
        answers=(Answer("00", int(rps * 10), text),),
        warmup_seconds=1.0,
        warmup_requests=10,
        warmup_errors=0,
        cpu_seconds=0.1,
    )


def visit(few: float, many: float, launch: float, pss: float, limits: tuple[float, ...]) -> Visit:
    loads = {"8 clients": result(8, few), "32 clients": result(32, many)}
    return Visit(launch, OURS, loads, pss, tuple(Limit(2, 10.0, rate, 31.0, OURS) for rate in limits))


LIMITS = {"torchmar-onnx": (64, 65, 66), "torchmar-int8": (150, 151, 140)}
"""Before the first load, between the two, after the second."""


@pytest.fixture
def report() -> dict[str, Any]:
    """Three rounds of six systems and one that failed, as the program reports them."""
    figures = {
        "stock": [(5, 6), (4, 7), (6, 5)],
        "torchmar-onnx": [(54, 60), (55, 61), (50, 59)],
        "torchmar-int8": [(100, 120), (104, 110), (96, 130)],
        "mosec": [(58, 62), (60, 63), (59, 61)],
        "litserve": [(61, 55), (60, 57), (62, 56)],
    }
    entries = [
        Entry(
            name,
            "ONNX",
            [visit(*rates, 2 + n, 500 + n, LIMITS.get(name, ())) for n, rates in enumerate(rounds)],
        )
        for name, rounds in figures.items()
    ]
    entries.append(Entry("bentoml", "ONNX", failure="Failed: it ended while starting\n  | no module"))
    content = {
        "command": "./scripts/bench --quick",
        "date": "2026-01-02",
        "commit": "abc1234",
        "rounds": 3,
        "weights": "random, seed 0",
        "machine": {
            "cpu": "A CPU",
            "cores": 2,
            "instructions": ["avx2"],
            "memory_gb": 16.0,
            "system": "Linux 6",
        },
        "versions": {"python": "3.11.7", "torch": "2.15.0"},
        **comparison(entries),
        "noop": [
            system_entry(
                Entry("stock", "none", [Visit(2.0, "", {"256": result(256, 700, {"status 503": 9})}, 5)])
            )
        ],
        "starting": [
            {
                "name": "torchmar-onnx",
                "ready_s": spread([0.5, 0.4]),
                "scale_s": spread([0.6]),
                "worker_pss_mb": spread([100, 110]),
                "worker_rss_mb": None,
                "runs": 2,
                "failure": None,
            }
        ],
        "vgg16": [{"name": "stock", "pss_mb": {"1": 1400.0, "2": 2500.5}, "failure": None}],
        "packaging": {"cp": spread([0.4]), "cp, on disk": spread([0.5]), "ours, on disk": spread([1.0])},
        "registering": {"archiver-zip-store.mar": spread([0.8]), "folder": spread([0.2])},
    }
    recorded: dict[str, Any] = json.loads(json.dumps(content, default=as_json))
    return recorded


def test_spread() -> None:
    """The median of an even number is between two; what is not known is left out."""
    assert spread([3, 1, 2]) == {"median": 2, "min": 1, "max": 3}
    assert spread([1.0, None, 2.0]) == {"median": 1.5, "min": 1.0, "max": 2.0}
    assert spread([]) is None


def test_a_system_has_its_figures_at_most_clients(report: dict[str, Any]) -> None:
    """The keys that others read; all the rest is below `phases`."""
    [onnx] = [system for system in report["systems"] if system["name"] == "torchmar-onnx"]
    assert (onnx["rps"], onnx["errors"], onnx["launch_s"], onnx["pss_mb"]) == (60, 0, 3, 501)
    assert onnx["p50_ms"] == pytest.approx(32_000 / 60)
    assert onnx["p99_ms"] == pytest.approx(1.2 * 32_000 / 60)
    assert onnx["phases"]["8 clients"]["rps"] == {"median": 54, "min": 50, "max": 55}
    assert onnx["failure"] is None


def test_ratios(report: dict[str, Any]) -> None:
    """For each number of clients; the best peer is another one for each.

    Against the limit it counts what was measured just before and just after.
    """
    found = report["ratios"]
    assert found["torchmar-onnx/limit"]["32 clients"] == pytest.approx(60 / 65.5)
    assert found["torchmar-int8/limit"]["8 clients"] == pytest.approx(100 / 150.5)
    assert found["torchmar-int8/stock"] == {"8 clients": 100 / 5, "32 clients": 120 / 6}
    assert found["best-peer"] == {"8 clients": "litserve", "32 clients": "mosec"}
    assert found["torchmar-onnx/best-peer"] == {"8 clients": 54 / 61, "32 clients": 60 / 62}
    assert "mosec/limit" not in found


def test_what_failed_is_told(report: dict[str, Any]) -> None:
    """Each with its reason; errors of the no-op under 256 clients are a figure and no failure."""
    told = failures(report)
    assert [line.partition(":")[0] for line in told] == ["bentoml"]
    assert "it ended while starting" in told[0]


def test_tables_are_rectangular(report: dict[str, Any]) -> None:
    """Every row has a cell for each head, with figures or without."""
    for brief in (True, False):
        found = tables(report, brief=brief)
        assert len(found) == 7
        for table in found:
            assert {len(row) for row in table.rows} == {len(table.heads)}, table.title
    [serving, *_] = tables(report, brief=True)
    assert serving.rows[1][:3] == ("torchmar-onnx", "54.0 ±5%", "60.0 ±2%")
    assert serving.rows[5][1] == "-"
    assert "failed" in serving.rows[5]
    [packing] = [table for table in tables(report, brief=False) if table.heads[-1] == "times cp"]
    assert packing.rows[-1] == ("ours, on disk", "1.00", "2.00"), "against the median of cp on disk"
    assert tables({}, brief=True) == []


def test_the_page_is_rewritten_in_its_part_alone(report: dict[str, Any]) -> None:
    """What people wrote around the results stays; writing them twice changes nothing."""
    page = f"# Performance\n\nBefore.\n\n{BEGIN}\n\nold\n\n{END}\n\nAfter.\n"
    results = markdown(report)
    written = into_page(page, results)
    assert written.startswith("# Performance\n\nBefore.\n\n")
    assert written.endswith(f"{END}\n\nAfter.\n")
    assert "\nold\n" not in written
    assert "| torchmar-onnx | ONNX | 54.0 (50.0 to 55.0) | 60.0 (59.0 to 61.0) |" in written
    assert "- bentoml: Failed: it ended while starting" in written
    assert into_page(written, results) == written
    assert into_page(into_page("# New\n", results), results) == into_page("# New\n", results)


@pytest.mark.parametrize(
    ("found", "exact", "right"),
    [
        (OURS, True, True),
        (OURS.replace("0.75", "0.7500001"), True, False),
        (OURS.replace("0.75", "0.7500001"), False, True),
        (OURS.replace("0.75", "0.76"), False, False),
        ('{"cat": 0.75, "dog": 0.25}', False, True),
        ('{"dog": 0.75, "cat": 0.25}', False, False),
        ('{"cat": 0.75}', False, False),
        ("Internal Server Error", False, False),
        ('{"ok": true}', False, False),
    ],
)
def test_answers_are_compared(found: str, exact: bool, right: bool) -> None:
    """To the byte, or labels in their order and probabilities as near as rounding allows."""
    assert same(OURS, found, exact=exact) == right
    assert wrong_answers(OURS, result(8, 50, text=found), exact=exact) == (0 if right else 500)
