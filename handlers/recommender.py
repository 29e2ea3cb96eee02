"""Recommend: a user in, the items that suit them best out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np

from .base import Array, BatchHandler, Decoded, Inputs, Outputs, Refused, Request
from .params import File, Positive
from .requests import content_of, rows_of, some, text_of
from .scores import only_scores, only_tensor, rows_of_scores

FORMS = 'send JSON {"user": ID} or {"instances": [{"user": ID}, …]}; {"user": null} for somebody new'

_KEYS = ("user", "k", "exclude_seen", "exclude", "among")


@dataclass(frozen=True)
class Params:
    """Which users the model knows, which items it can recommend, and what the answer holds."""

    items: File
    """JSON beside model.yaml: a list of {"id": …, and any further keys for the answer}, in the order of the
    model's scores."""
    users: File
    """JSON beside model.yaml: {user: [ids of the items that they have seen]}, in the order of the model's
    users. After the last one, the model has one row for all unknown users."""
    k: Positive = 10
    """Items in an answer, unless the request says otherwise."""
    exclude_seen: bool = True
    """Leave out what the user has seen, unless the request says otherwise."""
    max_k: Positive = 100
    """The most items in an answer."""
    max_users: Positive = 64
    """The most users in one request."""

    def __post_init__(self) -> None:
        if self.k > self.max_k:
            raise ValueError(f"k: {self.k} is more than `max_k`, {self.max_k}; write a smaller one")


@dataclass(frozen=True)
class _Wish:
    """The content of one instance."""

    user: str | None
    known: bool
    k: int
    allowed: Array
    """The positions of the items that may be recommended, int64 ascending."""


class Handler(BatchHandler[Params]):
    """Answers `{"user", "known", "items": [{"id", …, "score"}, …]}`, the best first.

    The model takes users, int64 (n,): each one's position in `users`, or the number of users for an unknown
    one. It gives a score for every item, (n, items).
    """

    def setup(self) -> None:
        """Read users and items. Raises ValueError with the faulty file and entry."""
        self._items = _items_in(self.files / self.params.items)
        self._place = {_id_of(item["id"]): place for place, item in enumerate(self._items)}
        seen = _users_in(self.files / self.params.users)
        self._user = {user: number for number, user in enumerate(seen)}
        self._seen = {user: self._places(ids, f"{self.params.users}: {user}") for user, ids in seen.items()}

    def _places(self, ids: Sequence[Any], where: str) -> Array:
        """Return the positions of items, int64 ascending. Raises ValueError with the unknown ids."""
        strange = [one for one in ids if _id_of(one) not in self._place]
        if strange:
            raise ValueError(f"{where}: no such item: {some(strange)}")
        return np.unique(np.array([self._place[_id_of(one)] for one in ids], dtype=np.int64))

    def example(self) -> Inputs:
        """Return an unknown user: the model's last row."""
        return {"user": np.array(len(self._user), dtype=np.int64)}

    def seeded(self, generator: np.random.Generator) -> Inputs:
        """Return any user."""
        return {"user": np.array(generator.integers(len(self._user) + 1), dtype=np.int64)}

    def decode(self, request: Request) -> Decoded:
        """Decode one or several users, each to int64 of shape ()."""
        rows, listed = rows_of(content_of(request, "user", FORMS), self.params.max_users)
        wishes = [self._wish(row, f"instances[{i}]: " if listed else "") for i, row in enumerate(rows)]
        newcomer = len(self._user)
        users = [self._user[str(wish.user)] if wish.known else newcomer for wish in wishes]
        return Decoded([{"user": np.array(user, dtype=np.int64)} for user in users], wishes, listed)

    def _wish(self, row: Any, where: str) -> _Wish:
        if not isinstance(row, Mapping) or "user" not in row:
            found = f"keys {some(row)}" if isinstance(row, Mapping) else f"a {type(row).__name__}"
            raise Refused(f"{where}no user: found {found}; {FORMS}")
        unknown = [key for key in row if key not in _KEYS]
        if unknown:
            raise Refused(f"{where}not known: {some(unknown)}; a request may have {', '.join(_KEYS)}")
        user = row["user"]
        if user is not None and (isinstance(user, bool) or not isinstance(user, str | int)):
            raise Refused(f"{where}user: found a {type(user).__name__}, expected an id or null")
        name = None if user is None else _id_of(user)
        known = name in self._user
        return _Wish(name, known, self._count(row, where), self._allowed(row, name, where))

    def _count(self, row: Mapping[str, Any], where: str) -> int:
        k = row.get("k", self.params.k)
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise Refused(f"{where}k: expected a number from 1 to {self.params.max_k}")
        if k > self.params.max_k:
            raise Refused(f"{where}k: at most {self.params.max_k}", HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        return k

    def _allowed(self, row: Mapping[str, Any], user: str | None, where: str) -> Array:
        allowed = np.ones(len(self._items), dtype=bool)
        exclude_seen = row.get("exclude_seen", self.params.exclude_seen)
        if not isinstance(exclude_seen, bool):
            raise Refused(f"{where}exclude_seen: expected true or false")
        for key in ("exclude", "among"):
            ids = row.get(key)
            if ids is None:
                continue
            if not isinstance(ids, list) or not all(isinstance(one, str | int) for one in ids):
                raise Refused(f"{where}{key}: expected a list of items' ids")
            try:
                places = self._places(ids, key)
            except ValueError as error:
                raise Refused(f"{where}{error}") from None
            if key == "among":
                only = np.zeros_like(allowed)
                only[places] = True
                allowed &= only
            else:
                allowed[places] = False
        if exclude_seen and user in self._seen:
            allowed[self._seen[user]] = False
        return np.flatnonzero(allowed)

    def graph_suffix(self, output: Any, count: int) -> Any:
        """Return the scores alone, float32 (n, items)."""
        return {"scores": rows_of_scores(only_tensor(output), count)}

    def infer(self, batch: Inputs) -> Outputs:
        """Return scores for users, (n, items)."""
        return {"scores": only_scores(self.model(batch), len(batch["user"]))}

    def warm_up(self) -> None:
        """Ask for an unknown user: the model needs a row for them, and a score for each item."""
        self.examine(self.infer(self.collate([self.example()])), squashed=False)

    def examine(self, outputs: Outputs, *, squashed: bool) -> Sequence[str]:
        """Check the number of scores against the number of items."""
        [scores] = outputs.values()
        if scores.shape[1] != len(self._items):
            raise ValueError(
                f"the model scores {scores.shape[1]} items, `items: {self.params.items}` has "
                f"{len(self._items)}; make the file and the weights from the same data"
            )
        if not np.isfinite(scores).all():
            raise ValueError("check the weights: some scores are NaN or infinity")
        return ()

    def encode(self, output: Outputs, about: _Wish | None) -> dict[str, Any]:
        """Return the k best allowed items; ties keep the items' order."""
        about = about or self._wish({"user": None}, "")  # a random instance asks for nothing
        scores = output["scores"][about.allowed].astype(np.float64)
        if not np.isfinite(scores).all():
            raise Refused("for this user the model gives NaN or infinity", HTTPStatus.INTERNAL_SERVER_ERROR)
        best = np.argsort(-scores, kind="stable")[: about.k]
        items = [{**self._items[about.allowed[i]], "score": float(scores[i])} for i in best]
        return {"user": about.user, "known": about.known, "items": items}

    def compare(self) -> Mapping[str, Any]:
        """Compare by the best item: below it, ties may change places."""
        return {"kind": "fields", "fields": {"items": {"kind": "first", "by": "id"}}}

    def about(self) -> dict[str, Any]:
        """Return the numbers of users and items, and the limits."""
        params = self.params
        return {
            "accepts": ["application/json"],
            "users": len(self._user),
            "items": len(self._items),
            "k": params.k,
            "limits": {"max_k": params.max_k, "max_users": params.max_users},
        }


def _id_of(one: Any) -> str:
    """Return the id as text: 42 and "42" are the same user or item."""
    try:
        return str(one)
    except ValueError:  # an integer with more digits than Python prints
        return ""


def _json_in(file: Path) -> Any:
    text = text_of(file.read_bytes())
    try:
        return json.loads(text or "")
    except ValueError as error:
        raise ValueError(f"{file.name}: no JSON: {error}") from None


def _items_in(file: Path) -> list[dict[str, Any]]:
    items = _json_in(file)
    if not isinstance(items, list) or not items:
        raise ValueError(f"{file.name}: expected a list of items")
    seen: set[str] = set()
    for place, item in enumerate(items):
        if not isinstance(item, dict) or "id" not in item or "score" in item:
            raise ValueError(f'{file.name}: item {place}: expected an object with an "id" and no "score"')
        if _id_of(item["id"]) in seen:
            raise ValueError(f"{file.name}: item {place}: there are two of id {item['id']}")
        seen.add(_id_of(item["id"]))
    return items


def _users_in(file: Path) -> dict[str, list[Any]]:
    users = _json_in(file)
    if not isinstance(users, dict) or not users:
        raise ValueError(f"{file.name}: expected an object: users, and a list of items for each")
    for user, ids in users.items():
        if not isinstance(ids, list):
            raise ValueError(f"{file.name}: {user}: expected a list of items' ids")
    return users
