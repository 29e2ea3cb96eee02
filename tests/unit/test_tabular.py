"""Rows and columns of a table: what is sent, what is told of what is missing, what comes back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.params import build_params, file_params
from handlers.tabular import Handler, Params
from tests.asking import ask, form, opened
from torchmar.compare import Comparator
from torchmar.params import validated

HOUSE = {
    "columns": ["rooms", "area", "colour"],
    "categories": {"colour": ["red", "white"]},
    "defaults": {"colour": "white"},
    "outputs": ["price", "rent"],
}
ROW = {"rooms": 3, "area": 70.5, "colour": "red"}


def price(inputs: Any) -> dict[str, Any]:
    """Rooms and ten times the area; the colour."""
    features = inputs["features"]
    assert features.dtype == np.float32
    return {"output": np.stack([features[:, 0] + 10 * features[:, 1], features[:, 2]], axis=1)}


def house(**params: Any) -> Any:
    return opened(Handler, {**HOUSE, **params}, Path("/nowhere"), price)


def reason(body: Any, **params: Any) -> tuple[int, str]:
    [answer] = ask(house(**params), body)
    return answer.status, answer.reason


@pytest.mark.parametrize(
    "body",
    [ROW, json.dumps(ROW), [3, 70.5, "red"], form(rooms="3", area="70.5", colour="red")],
    ids=["parsed", "text", "in order", "a form"],
)
def test_a_row_is_answered_with_named_numbers(body: Any) -> None:
    """However it is sent."""
    [answer] = ask(house(), body)
    assert (answer.status, answer.content) == (200, {"price": 708.0, "rent": 0.0})


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [ROW, {"rooms": 1, "area": 2}]},
        {"rooms": [3, 1], "area": [70.5, 2], "colour": ["red", None]},
        [ROW, {"rooms": 1, "area": 2}],
        [[3, 70.5, "red"], [1, 2, None]],
    ],
    ids=["instances", "columns", "records", "lists"],
)
def test_rows_and_columns_are_one_table(body: Any) -> None:
    """Several rows are answered in their order; null and what is left out take the column's default."""
    [answer] = ask(house(), body)
    assert answer.content == {"predictions": [{"price": 708.0, "rent": 0.0}, {"price": 21.0, "rent": 1.0}]}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"rooms": 3, "aera": 1}, "missing: area; not in the table: 'aera' (is it area?)"),
        # Each has its own suggestion; a column with a default is meant though it is not missing.
        (
            {"rooms": 3, "x": 1, "aera": 1, "coulour": "red"},
            "missing: area; not in the table: 'x', 'aera' (is it area?), 'coulour' (is it colour?)",
        ),
        ({**dict.fromkeys(range(9), 1)}, "'0', '1', '2', '3', '4' and 4 more"),
        ({"instances": [ROW, {}]}, "row 1: missing: rooms, area"),
        ({**ROW, "area": "big"}, "area: found the text 'big', expected a number"),
        ({**ROW, "area": 1e39}, "area: found 1e+39, expected a number that float32 can hold"),
        ({**ROW, "area": 10**5000}, "area: found a very long integer"),
        ('{"rooms": 3, "area": NaN}', "area: found nan"),
        ({**ROW, "colour": "blue"}, "colour: found the text 'blue', expected one of ['red', 'white']"),
        ({**ROW, "colour": True}, "colour: found True"),
        ({"rooms": [3, 1], "area": [1]}, "columns of different lengths (rooms: 2, area: 1)"),
        ({"rooms": [3, 1], "area": 1}, "columns of different lengths (rooms: 2, area: no list)"),
        ([1, 2], "2 values, the table has 3: rooms, area, colour"),
        ({"instances": []}, "at least one row"),
        ([], "no row: found a list"),
        ("7", "no row: found a str"),
        ([[]], "row 0: 0 values"),
        ([{}, 7], "row 0: missing"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_by_name(body: Any, told: str) -> None:
    """400, with the row, the column, what was found and what was expected."""
    status, found = reason(body)
    assert status == 400
    assert told in found


def test_a_request_has_so_many_rows_at_most() -> None:
    """In any form: 413."""
    for body in ([[1, 2, None]] * 3, {"rooms": [1, 2, 3], "area": [1, 2, 3]}):
        status, found = reason(body, max_rows=2)
        assert status == 413
        assert "3 rows in one request, at most 2" in found


def test_a_bad_row_fails_its_own_request() -> None:
    """Its neighbours in the batch are answered."""
    found = ask(house(), ROW, {"rooms": 1}, b"\xff\xfe\x00", ROW)
    assert [answer.status for answer in found] == [200, 400, 400, 200]


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
                    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*ROW, "x", "instances"]), inner)))  # fmt: skip  # noqa: E501
def test_whatever_json_says_it_is_answered_or_refused(body: Any) -> None:
    """Never a 500, and never numbers for what is no row."""
    [answer] = ask(house(), json.dumps(body))
    assert answer.status in {200, 400}


# -- classes ------------------------------------------------------------------------------------


def classes(given: list[float], **params: Any) -> Any:
    def model(inputs: Any) -> dict[str, Any]:
        count = len(inputs["features"])
        return {"label": np.zeros(count, np.int64), "scores": np.array([given] * count, np.float32)}

    return opened(Handler, {"columns": ["x"], "labels": ["no", "yes"], **params}, Path("/nowhere"), model)


def test_classes_come_with_their_probabilities() -> None:
    """The likeliest first; a converter's label beside the scores is left out."""
    [answer] = ask(classes([0.0, np.log(3)]), {"x": 1})
    assert [(row["label"], row["index"]) for row in answer.content] == [("yes", 1), ("no", 0)]
    assert [row["probability"] for row in answer.content] == pytest.approx([0.75, 0.25])


def test_one_sigmoid_is_two_classes() -> None:
    """`scores: sigmoid`, topk of one."""
    [answer] = ask(classes([np.log(3)], scores="sigmoid", topk=1), {"x": 1})
    assert answer.content == [{"label": "yes", "index": 1, "probability": pytest.approx(0.75)}]


def test_no_number_is_no_answer() -> None:
    """NaN is said to be the model's, with 500."""
    [answer] = ask(classes([np.nan, 1.0]), {"x": 1})
    assert answer.status == 500
    assert "NaN" in answer.reason


def test_labels_may_lie_in_a_file(tmp_path: Path) -> None:
    """As a list, they are no file that would be packed."""
    (tmp_path / "names.txt").write_text("no\nyes\n")
    params = {"columns": ["x"], "labels": "names.txt"}
    handler = opened(Handler, params, tmp_path, lambda _: {"output": np.array([[0.0, 9.0]])})
    assert ask(handler, {"x": 1})[0].content[0]["label"] == "yes"
    assert file_params(Params, params) == {"labels": "names.txt"}
    assert file_params(Params, {"columns": ["x"], "labels": ["no", "yes"]}) == {}


# -- what is built ------------------------------------------------------------------------------


def test_a_model_that_gives_something_else_is_refused() -> None:
    """How many numbers there are, and that probabilities are said to be those."""
    with pytest.raises(ValueError, match="the model gives 2 numbers a row, `outputs` names 1"):
        house(outputs=["price"]).warm_up()
    with pytest.raises(ValueError, match="the model gives 2 numbers a row, `labels` names 3"):
        classes([1.0, 2.0], labels=["a", "b", "c"]).warm_up()
    with pytest.raises(ValueError, match="write `scores: probabilities`"):
        classes([0.25, 0.75]).warm_up()
    house().warm_up()


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"columns": ["a", "a"], "outputs": ["y"]}, "columns: name each column"),
        ({"columns": ["a"]}, "either `outputs`"),
        ({"columns": ["a"], "outputs": ["y"], "labels": ["b"]}, "either `outputs`"),
        ({"columns": ["a"], "outputs": ["y"], "defaults": {"b": 1}}, "defaults: b is not in `columns`"),
        ({"columns": ["a"], "outputs": ["y"], "defaults": {"a": "b"}}, "defaults: a: found the text 'b'"),
        ({"columns": ["a"], "outputs": ["y"], "categories": {"a": []}}, "categories: a: name each value"),
    ],
)  # fmt: skip
def test_params_are_held_against_one_another(params: Any, told: str) -> None:
    """With the key at fault, in a build and in a worker."""
    with pytest.raises(ValueError, match=told):
        validated(Params, params)
    with pytest.raises(ValueError, match=told):
        build_params(Params, params)


def test_params_of_a_build_are_those_of_a_worker() -> None:
    """Both answer alike."""
    assert validated(Params, HOUSE).defaults == build_params(Params, HOUSE).defaults


def test_seeded_rows_hold_known_categories() -> None:
    """A number for a word that does not exist would be an index into nothing."""
    handler = house(categories={"colour": ["red", "white", "blue"]})
    found = {float(handler.seeded(np.random.default_rng(seed))["features"][2]) for seed in range(30)}
    assert found == {0.0, 1.0, 2.0}


def test_answers_are_compared_by_what_they_are() -> None:
    """Numbers but for rounding; classes by the likeliest."""
    numbers, labels = Comparator.of(house().compare()), Comparator.of(classes([0.0, 1.0]).compare())
    assert numbers.same({"price": 100.0}, {"price": 100.01})
    assert not numbers.same({"price": 100.0}, {"price": 101.0})
    assert labels.same([{"label": "a", "probability": 0.9}], [{"label": "a", "probability": 0.7}])
    assert not labels.same([{"label": "a", "probability": 0.9}], [{"label": "b", "probability": 0.9}])


def test_describe_lists_the_columns() -> None:
    """With the values that a word may have."""
    about = house().about()
    assert about["columns"][2] == {"name": "colour", "values": ["red", "white"]}
    assert json.loads(json.dumps(about))["outputs"] == ["price", "rent"]
