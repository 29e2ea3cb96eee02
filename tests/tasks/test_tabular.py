"""Tables with scikit-learn's real ones: diabetes and wine, trained where the archive is built."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.asking import ask
from tests.needs import needs
from tests.tasks.folders import golden, loading, opened_folder, spec_of

pytestmark = [pytest.mark.tasks, needs("sklearn", "scikit-learn")]


def test_wines_are_told_apart() -> None:
    """A wine of each cultivar, as the golden requests have them; missing columns are named."""
    handler = opened_folder("wine")
    handler.warm_up()
    bodies = [golden("wine", f"class_{number}.json") for number in range(3)]
    found = ask(handler, *bodies, b'{"alcohol": 13}')
    assert [answer.content[0]["label"] for answer in found[:3]] == ["class_0", "class_1", "class_2"]
    assert all(answer.content[0]["probability"] > 0.9 for answer in found[:3])
    assert (found[3].status, "proline" in found[3].reason) == (400, True)


def test_most_wines_that_were_not_learnt_are_told_right() -> None:
    """In five folds."""
    assert loading("wine").evaluate()["accuracy"] > 0.95


def test_progression_is_a_number_near_what_was_measured() -> None:
    """All patients as one table of columns: nearer than their mean is."""
    handler = opened_folder("diabetes")
    handler.warm_up()
    from sklearn.datasets import load_diabetes

    table = load_diabetes(scaled=False)
    columns = dict(zip(table.feature_names, table.data.T.tolist(), strict=True))
    [answer, row] = ask(handler, json.dumps(columns), golden("diabetes", "row.json"))
    found = np.array([one["progression"] for one in answer.content["predictions"]])
    assert ((found - table.target) ** 2).mean() < 0.5 * table.target.var()
    assert row.content["progression"] == pytest.approx(found[0], rel=1e-5)
    assert abs(row.content["progression"] - 151) < 75  # what was measured of the first patient


@pytest.mark.parametrize(("name", "kind"), [("wine", "load_wine"), ("diabetes", "load_diabetes")])
def test_columns_are_those_of_the_table(name: str, kind: str) -> None:
    """In its order, which is what the network was trained on."""
    from sklearn import datasets

    table = getattr(datasets, kind)()
    assert spec_of(name)["params"]["columns"] == list(table.feature_names)


def test_the_same_table_trains_the_same_network() -> None:
    """An archive that is built twice is the same."""
    load = loading("wine")
    one, other = load.wine().state_dict(), load.wine().state_dict()
    assert all((one[name] == other[name]).all() for name in one)
