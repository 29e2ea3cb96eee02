"""Recommendations: the best items for a user, without what they have seen; newcomers; limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.params import build_params
from handlers.recommender import Handler, Params
from tests.asking import ask, form, opened
from torchmar.compare import Comparator

ITEMS = [{"id": 10 * place, "title": f"film {place}"} for place in range(5)]
USERS = {"7": [40, 30], "ann": []}
SCORES = np.array([[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [1, 1, 5, 1, 1]], dtype=np.float32)


def model(inputs: Any) -> dict[str, Any]:
    """Likes the last items for user 7, the first ones for ann, the middle one for anybody else."""
    assert inputs["user"].dtype == np.int64
    return {"scores": SCORES[inputs["user"]]}


def folder(path: Path, items: Any = ITEMS, users: Any = USERS) -> Path:
    (path / "items.json").write_text(json.dumps(items))
    (path / "users.json").write_text(json.dumps(users))
    return path


def handler(path: Path, scorer: Any = model, **params: Any) -> Any:
    return opened(Handler, {"items": "items.json", "users": "users.json", **params}, path, scorer)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return handler(folder(tmp_path_factory.mktemp("films")), k=2, max_k=4, max_users=3)


def ids(answer: Any) -> list[int]:
    return [item["id"] for item in answer["items"]]


@pytest.mark.parametrize(
    ("wish", "found"),
    [
        ({"user": 7}, [20, 10]),
        ({"user": "7"}, [20, 10]),
        ({"user": 7, "exclude_seen": False}, [40, 30]),
        ({"user": "ann", "k": 3}, [0, 10, 20]),
        ({"user": "ann", "exclude": [0]}, [10, 20]),
        ({"user": "ann", "among": [40, "30"]}, [30, 40]),
        ({"user": 7, "among": [40]}, []),
        ({"user": None}, [20, 0]),
        ({"user": "bob", "k": 4}, [20, 0, 10, 30]),
    ],
    ids=str,
)  # fmt: skip
def test_the_best_items_that_are_allowed(films: Any, wish: Any, found: list[int]) -> None:
    """Ties in the order of the items; whom the model does not know gets what suits everybody."""
    [answer] = ask(films, wish)
    assert (answer.status, ids(answer.content)) == (200, found)
    assert answer.content["known"] == (str(wish["user"]) in USERS)


def test_an_item_says_what_its_file_says(films: Any) -> None:
    """And its score."""
    [answer] = ask(films, form(user="ann", k="1"))
    assert answer.content["items"] == [{"id": 0, "title": "film 0", "score": 4.0}]


def test_several_users_are_answered_in_order(films: Any) -> None:
    """In one forward pass."""
    [answer] = ask(films, {"instances": [{"user": 7}, {"user": "ann"}]})
    assert [ids(one) for one in answer.content["predictions"]] == [[20, 10], [0, 10]]


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({}, 400, "no user: found keys []"),
        ("7", 400, "no user: found a str"),
        ({"usr": 7}, 400, "no user: found keys ['usr']"),
        ({"user": 7, "top": 3}, 400, "not known: ['top']"),
        ({"user": True}, 400, "user: found a bool"),
        ({"user": 1.5}, 400, "user: found a float"),
        ({"user": 7, "k": 0}, 400, "k: expected a number from 1 to 4"),
        ({"user": 7, "k": 5}, 413, "k: at most 4"),
        ({"user": 7, "exclude": 40}, 400, "exclude: expected a list"),
        ({"user": 7, "among": [40, 41]}, 400, "among: no such item: ['41']"),
        ({"user": 7, "exclude_seen": "no"}, 400, "exclude_seen: expected true or false"),
        ({"instances": [{"user": 7}, {"user": []}]}, 400, "instances[1]: user: found a list"),
        ({"instances": [{"user": 7}] * 4}, 413, "4 instances in one request, at most 3"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_says_why(films: Any, body: Any, status: int, told: str) -> None:
    """And fails alone: its neighbours are answered."""
    before, answer, after = ask(films, {"user": 7}, body, {"user": 7})
    assert (answer.status, told in answer.reason) == (status, True), answer.reason
    assert ids(before.content) == ids(after.content) == [20, 10]


@given(st.dictionaries(st.sampled_from(["user", "k", "exclude", "among", "exclude_seen", "x"]),
                       st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers() | st.floats() | st.none())))  # fmt: skip  # noqa: E501
def test_whatever_json_says_it_is_answered_or_refused(films: Any, wish: Any) -> None:
    """Never a 500."""
    [answer] = ask(films, json.dumps(wish))
    assert answer.status in {200, 400, 413}


def test_no_number_is_no_answer(tmp_path: Path) -> None:
    """NaN among the scores is the model's fault: 500."""
    films = handler(folder(tmp_path), lambda _: {"scores": np.full((1, 5), np.nan, np.float32)})
    [answer] = ask(films, {"user": 7})
    assert (answer.status, "NaN" in answer.reason) == (500, True)
    with pytest.raises(ValueError, match="check the weights"):
        films.warm_up()


def test_files_and_weights_are_of_the_same_data(tmp_path: Path) -> None:
    """A score for each item."""
    films = handler(folder(tmp_path, items=[*ITEMS, {"id": 99}]))
    with pytest.raises(ValueError, match=r"scores 5 items, `items: items.json` has 6"):
        films.warm_up()


@pytest.mark.parametrize(
    ("items", "users", "told"),
    [
        ([], USERS, "items.json: expected a list of items"),
        ([{"title": "x"}], USERS, 'item 0: expected an object with an "id"'),
        ([{"id": 1}, {"id": "1"}], USERS, "item 1: there are two of id 1"),
        (ITEMS, [], "users.json: expected an object"),
        (ITEMS, {"7": 40}, "users.json: 7: expected a list"),
        (ITEMS, {"7": [41]}, r"users.json: 7: no such item: \['41'\]"),
    ],
)  # fmt: skip
def test_files_that_say_something_else(tmp_path: Path, items: Any, users: Any, told: str) -> None:
    """The file and the entry are named."""
    with pytest.raises(ValueError, match=told):
        handler(folder(tmp_path, items, users))


def test_params_are_held_against_one_another() -> None:
    """k within max_k."""
    with pytest.raises(ValueError, match="k: 10 is more than `max_k`, 5"):
        build_params(Params, {"items": "a", "users": "b", "max_k": 5})


def test_two_answers_are_the_same_where_the_best_item_is(films: Any) -> None:
    """For the same user."""
    comparator = Comparator.of(films.compare())
    [one, other] = (answer.content for answer in ask(films, {"user": 7}, {"user": "ann"}))
    near = {**one, "items": [one["items"][0], {**one["items"][1], "id": 0}]}
    assert comparator.same(one, near)
    assert not comparator.same(one, other)
    assert not comparator.same(one, {**one, "items": one["items"][::-1]})


def test_seeded_users_are_anybody(films: Any) -> None:
    """Newcomers too."""
    assert {int(films.seeded(np.random.default_rng(seed))["user"]) for seed in range(30)} == {0, 1, 2}
