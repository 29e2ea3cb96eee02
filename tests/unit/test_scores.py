"""What a classifier's scores are: logits, probabilities or independent ones; and what contradicts it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.scores import SCORES, require_scores, to_probabilities


def rows(*scores: list[float]) -> np.ndarray:
    return np.array(scores, dtype=np.float32)


def test_logits_are_compared_with_each_other() -> None:
    """Their softmax: -inf is a class that is ruled out, and large ones do not overflow."""
    found = to_probabilities(rows([0, 0, -np.inf], [1e5, 0, 0]), "logits")
    assert found.tolist() == [[0.5, 0.5, 0], [1, 0, 0]]
    assert found.dtype == np.float64


def test_probabilities_stay_as_they_are() -> None:
    """One for each class, which need not exclude each other."""
    assert to_probabilities(rows([0.25, 0.5], [1, 1]), "probabilities").tolist() == [[0.25, 0.5], [1, 1]]


def test_the_sigmoid_is_taken_of_each_score() -> None:
    """Without overflow at either end."""
    found = to_probabilities(rows([0, 1e4, -1e4], [1, -1, 0]), "sigmoid")
    assert found[0].tolist() == [0.5, 1, 0]
    assert found[1] == pytest.approx([0.7310586, 0.2689414, 0.5])


@pytest.mark.parametrize(("kind", "score"), [("probabilities", 0.75), ("sigmoid", np.log(3))])
def test_one_score_is_that_of_the_second_of_two_classes(kind: str, score: float) -> None:
    """No and yes, in this order."""
    assert to_probabilities(rows([score]), kind)[0] == pytest.approx([0.25, 0.75])


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=6), st.sampled_from(SCORES[::2]))
def test_what_logits_come_to_are_probabilities(scores: list[float], kind: str) -> None:
    """Between 0 and 1, in the order of the logits."""
    found = to_probabilities(np.array([scores]), kind)[0]
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found[np.argsort(scores)]) >= 0).all()


@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_no_number_stays_its_own_rows(kind: str, wrong: float) -> None:
    """The other pictures of the batch have their probabilities."""
    found = to_probabilities(rows([0.5, 0.5], [wrong, wrong], [0.5, 0.5]), kind)
    assert np.isfinite(found).all(axis=1).tolist() == [True, kind == "sigmoid" and wrong > 0, True]


def test_what_no_rounding_explains_is_no_probability() -> None:
    """float16 gives 1.0005 here and there; 1.2 is something else, and is not served as if it were 1."""
    found = to_probabilities(rows([1.0005, -0.0005], [1.2, -0.2]), "probabilities")
    assert found[0].tolist() == [1, 0]
    assert np.isnan(found[1]).all()


# -- what contradicts -----------------------------------------------------------------------------


def test_one_logit_is_refused_with_the_ways_out() -> None:
    """Its softmax is 1 whatever the picture is."""
    with pytest.raises(ValueError, match=r"^write `scores: sigmoid` under `params` in model\.yaml"):
        to_probabilities(rows([0.3]), "logits")


def test_an_unknown_kind_is_refused() -> None:
    """With those that are known."""
    with pytest.raises(ValueError, match="'softmax' is none of logits, probabilities, sigmoid"):
        to_probabilities(rows([0.3, 0.7]), "softmax")


@pytest.mark.parametrize("shape", [(4,), (4, 3, 1, 1), ()])
def test_scores_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    """What was found, and what is expected."""
    with pytest.raises(ValueError, match=r"an array of shape \(.*\), expected \(pictures, classes\)"):
        to_probabilities(np.zeros(shape), "logits")


@pytest.mark.parametrize(
    ("kind", "found", "more", "remedy"),
    [
        ("logits", [0.2, 0.8], [[0.9, 0.1], [0.5, 0.5]], "write `scores: probabilities`"),
        ("logits", [0.2, 0.8], [[0.9, 0.1], [0.5, 0.9]], None),
        ("logits", [0.2, 0.8], [[-0.1, 1.1]], None),
        ("logits", [0.0, 0.0], [[0.9, 0.1]], None),
        ("probabilities", [0.2, 0.8], [], None),
        ("probabilities", [0.9, 0.8], [], None),
        ("probabilities", [-3.0, 2.0], [], "take `scores: probabilities` out"),
        ("sigmoid", [0.2, 0.8], [[0.9, 0.1]], "write `scores: probabilities`"),
        ("sigmoid", [0.2, 0.9], [], None),
        ("sigmoid", [1.0], [], None),
    ],
)
def test_scores_that_contradict_are_refused(
    kind: str, found: list[float], more: list[list[float]], remedy: str | None
) -> None:
    """A softmax of probabilities would make all classes alike; logits are no probabilities."""
    if remedy is None:
        require_scores(kind, rows(found), lambda: rows(*more))
    else:
        with pytest.raises(ValueError, match=rf"^{remedy}"):
            require_scores(kind, rows(found), lambda: rows(*more))


def test_other_inputs_are_asked_for_only_where_the_first_looks_odd() -> None:
    """The start of an ordinary model costs one inference."""
    require_scores("logits", rows([-1, 2]), lambda: pytest.fail("asked"))
