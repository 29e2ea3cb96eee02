"""Which version a prediction is asked of, where a share of them goes to a candidate: a canary."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import ClientError
from ..names import unsayable

_BITS = 53  # as many as a float holds: every point below is exact, and below 1


@dataclass(frozen=True)
class Split:
    """The share of each candidate, in the order given; what they leave goes to the default version.

    Candidates share the line from 0 to 1 out from its beginning. So a share that grows takes keys from the
    default alone, if it is the only one or the last; one before others pushes those aside.
    """

    shares: tuple[tuple[str, float], ...] = ()

    @classmethod
    def of(cls, shares: Mapping[str, float]) -> Split:
        """{"2.0": 0.05} sends 5 % to version 2.0. Raises ClientError for what cannot be a split."""
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
        """The candidate whose part of [0, 1) holds `point`; None is the default version."""
        given: list[float] = []
        for version, share in self.shares:
            given.append(share)
            if point < math.fsum(given):
                return version
        return None


def point_of(model: str, key: str) -> float:
    """Where in [0, 1) a key always is for a model.

    The first 53 bits of SHA-256 over both: evenly spread, the same in every process and on every machine,
    and for another model elsewhere, so that not always the same users meet the candidates.
    """
    digest = hashlib.sha256(f"{model}\0{key}".encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8], "big") >> (64 - _BITS)) / (1 << _BITS)
