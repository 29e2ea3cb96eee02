"""The benchmark of config.properties takes away what is there, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.limit import Limit
from benchmarks.measure import Visit
from benchmarks.rounds import Entry
from benchmarks.settings import AS_IT_IS, VARIANTS, Without, entries
from benchmarks.tables import tables
from torchmar.measure.load import Result
from torchmar.server import read_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_each_variant_differs_in_one_thing(variant: Without, tmp_path: Path) -> None:
    """From the checkout's own file, so that a line that is renamed or gone there fails here."""
    config = read_config(ROOT / "config.properties")
    changed = variant.changed(config).settings
    variant.prepare(tmp_path)
    differing = {key for key in config.settings if changed.get(key) != config.settings[key]}
    assert not changed.keys() - config.settings.keys()
    if variant.vmargs or variant.options:
        assert differing == {"vmargs"}
    else:
        assert differing == set(variant.settings)
    written = [path.name for path in tmp_path.iterdir()]
    assert written == (["log4j2.xml"] if variant.logging else [])
    assert bool(differing or written) == (variant.name != AS_IT_IS)


def test_a_setting_that_is_not_there_is_an_error() -> None:
    """Not a second measurement of the same server under another name."""
    config = read_config(ROOT / "config.properties")
    for variant in (Without("x", settings=("no_such",)), Without("x", vmargs=("-Xno",))):
        with pytest.raises(ValueError, match=r"no_such|not in list"):
            variant.changed(config)


def test_their_table() -> None:
    """A line for each, with what could not be measured left open."""
    answered = Result(32, 5.0, 500, 100.0, 1, 2, 3, 4, 0, {}, (), 1.0, 10, 0, 0.1)
    visit = Visit(1.5, "", {"32 clients, 20 B": answered}, 200.0, (Limit(2, 1.0, 1.0, 1.0, ""),))
    lines = entries([Entry(AS_IT_IS, "none", [visit]), Entry("worse", "none", failure="Failed: died")])
    [table] = tables({"settings": lines}, brief=True)
    assert table.heads == ("server", "requests/s, 32 clients, 20 B", "launch, s", "PSS, MB")
    assert table.rows == ((AS_IT_IS, "100", "1.5", "200"), ("worse", "-", "-", "-"))
