"""A handler of one's own: numbers `a` and `b` in, their weighted sum out."""

from dataclasses import dataclass

import numpy as np

from handlers.base import BatchHandler, Decoded, Refused
from handlers.params import Positive
from handlers.requests import content_of, rows_of

FORMS = 'send {"a": 1, "b": 2}, or {"instances": [...]} with several'


def number(row, key):
    """Return one number of a row, which is any JSON.

    Refuses what float32 cannot hold: the sender can fix it.
    """
    value = row.get(key) if isinstance(row, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 3e38:
        raise Refused(f"{key}: expected a number; {FORMS}")
    return np.float32(value)


@dataclass(frozen=True)
class Params:
    """The `params` of model.yaml; a value of another type is refused there, with its line."""

    most: Positive = 16
    """Instances in one request."""


class Handler(BatchHandler[Params]):
    """Each method gets the result of the one before it; a batch holds instances of several requests."""

    def example(self):
        """Return one valid instance: named arrays, without a batch axis."""
        return {"a": np.float32(1), "b": np.float32(2)}

    def decode(self, request):
        """Return the instances of one request. Refused affects only this request, not its neighbours.

        A row is the JSON that was sent, or a form's fields: a file among them is bytes.
        """
        rows, listed = rows_of(content_of(request, "numbers", FORMS), self.params.most)
        return Decoded([{key: number(row, key) for key in ("a", "b")} for row in rows], listed=listed)

    def encode(self, output, about):
        """Return the answer for one instance's outputs by name: anything that JSON can hold."""
        return {"sum": float(output["sum"])}
