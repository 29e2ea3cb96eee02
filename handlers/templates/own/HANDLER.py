"""A handler of one's own: numbers `a` and `b` in, their weighted sum out."""

from dataclasses import dataclass

import numpy as np

from handlers.base import BatchHandler, Decoded, Refused
from handlers.params import Positive
from handlers.requests import content_of, rows_of

FORMS = 'send {"a": 1, "b": 2}, or {"instances": [...]} with several'


@dataclass(frozen=True)
class Params:
    """What `params` in model.yaml may say; a value of another type is refused there, with its line."""

    most: Positive = 16
    """Instances in one request."""


class Handler(BatchHandler[Params]):
    """Each method sees what the one before it gave; a batch holds instances of several requests."""

    def example(self):
        """One valid instance: named arrays, without a batch axis."""
        return {"a": np.float32(1), "b": np.float32(2)}

    def decode(self, request):
        """The instances of one request. What its sender did wrong is Refused, and no neighbour notices.

        A row is what was sent as JSON, or a form's fields: a file among them is bytes.
        """
        rows, listed = rows_of(content_of(request, "numbers", FORMS), self.params.most)
        try:
            return Decoded([{key: np.float32(row[key]) for key in ("a", "b")} for row in rows], listed=listed)
        except (KeyError, TypeError, ValueError):
            raise Refused(f"expected numbers a and b; {FORMS}") from None

    def encode(self, output, about):
        """The answer for one instance, of the module's outputs by name: anything that JSON can hold."""
        return {"sum": float(output["sum"])}
