"""Split predictions between the default version and candidates: a canary on the client's side."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import ClientError
from ..names import unsayable

_BITS = 53  # a float's precision: every point below is exact, and below 1


@dataclass(frozen=True)
class Split:
    """Holds each candidate's share, in the given order; the default version gets the rest.

    The candidates divide the line from 0 to 1, beginning at 0. So a growing share takes keys from the default
    version alone, if it is the only share or the last one; an earlier share displaces the later ones.
    """

    shares: tuple[tuple[str, float], ...] = ()

    @classmethod
    def of(cls, shares: Mapping[str, float]) -> Split:
        """Return the split: {"2.0": 0.05} sends 5 % to version 2.0.

        Raises ClientError for an invalid split.
        """
        for version, share in shares.items():
            if not isinstance(version, str) or not version:
                raise ClientError(f"split: found the version {version!r}, expected a string such as '2.0'")
            problem = unsayable(version)
            if problem is not None:
                raise ClientError(f"split: {problem}: no prediction could ask for it")
            number = isinstance(share, int | float) and not isinstance(share, bool)
            if not number or not 0 <= share <= 1:
                raise ClientError(f"split: found {share!r} for {version}, expected a share from 0 to 1")
        total = math.fsum(shares.values())
        if total > 1:
            given = ", ".join(f"{version}: {share:g}" for version, share in shares.items())
            raise ClientError(f"split: {given} are {total:g} together, more than all there is; lower one")
        return cls(tuple((version, float(share)) for version, share in shares.items()))

    def version_at(self, point: float) -> str | None:
        """Return the candidate whose part of [0, 1) holds `point`; None means the default version."""
        given: list[float] = []
        for version, share in self.shares:
            given.append(share)
            if point < math.fsum(given):
                return version
        return None


def point_of(model: str, key: str) -> float:
    """Return a key's fixed point in [0, 1) for a model.

    The point is the first 53 bits of SHA-256 over both. Points are evenly spread and equal in every process
    and on every machine. They differ between models, so that the same users do not meet every candidate.
    """
    digest = hashlib.sha256(f"{model}\0{key}".encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8], "big") >> (64 - _BITS)) / (1 << _BITS)
