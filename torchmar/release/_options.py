"""What whoever releases may choose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..measure.recorded import Limits
from ._journal import known_to


@dataclass(frozen=True)
class Options:
    """Times in seconds.

    `workers` None: as many as the default version has, or else the archive's minWorkers. With a `public_key`
    (its file) an archive must be signed by who holds the other half. With `load` an archive whose workers do
    not become READY is loaded here, which runs its code, where no server says why. `samples` golden requests
    are sent to each version, and more within `gate_seconds` where these cannot tell, or longer where they are
    few.
    `longest` is the longest that a request takes, None: the version's responseTimeout, after which TorchServe
    itself gives up; `pinned_unseen` is for servers whose metrics do not tell who asks for a version by its
    number. A slowdown is a ratio; agreement a share of the requests that are answered as by the default
    version, None: as the archive's model.yaml accepts (accept.agreement); `tolerance` is for numbers in
    answers, absolute and relative, None: as it accepts (accept.max_abs_error).

    `request` are files that are sent as golden requests are, to archives without any or besides: nothing is
    expected of their answers but that they are those of the default version, if there is one.

    `shadow` are files of recorded requests: the first `shadow_limit` are sent of those with bodies of at most
    `shadow_max_bytes`, and of JSON only the `shadow_fields`, if any are named. `canary` are percents, each
    for at least `canary_seconds`; `nginx` is the file with nginx's configuration, `nginx_reload` the command
    that has it read, `access_log` what nginx writes.
    """

    workers: int | None = None
    ready_timeout: float = 120.0
    samples: int = 100
    gate_seconds: float = 10.0
    max_slowdown: float = 1.5
    min_agreement: float | None = None
    tolerance: float | None = None
    watch: float = 10.0
    drain_timeout: float = 120.0
    longest: float | None = None
    pinned_unseen: bool = False
    promote_inconclusive: bool = False
    ignore_memory: bool = False
    sha256: str | None = None
    public_key: str | None = None
    load: bool = True
    wave: int = 1
    request: tuple[str, ...] = ()
    shadow: tuple[str, ...] = ()
    shadow_limit: int = 200
    shadow_max_bytes: int = 1_000_000
    shadow_fields: tuple[str, ...] = ()
    shadow_agreement: float = 0.95
    canary: tuple[float, ...] = ()
    canary_seconds: float = 30.0
    nginx: str | None = None
    nginx_reload: str | None = None
    nginx_listen: str = "127.0.0.1:8088"
    access_log: str | None = None

    @property
    def shadow_limits(self) -> Limits:
        """Of recorded requests."""
        return Limits(self.shadow_limit, self.shadow_max_bytes, self.shadow_fields or None)

    def as_json(self) -> dict[str, Any]:
        """For the journal."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Options:
        """Back from the journal. Raises TypeError where somebody has written something else into it."""
        found = cls(**known_to(cls, content))
        for item in fields(cls):
            if not any(_is(kind, getattr(found, item.name)) for kind in str(item.type).split(" | ")):
                raise TypeError(f"{item.name}: expected {item.type}")
        return found


_KINDS: Mapping[str, tuple[type, ...]] = {
    "None": (type(None),),
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "str": (str,),
}


def _is(kind: str, value: Any) -> bool:
    """Whether it is of a kind that a field above is annotated with; what JSON has for a tuple is a list."""
    if kind.startswith("tuple["):
        inner = kind.removeprefix("tuple[").partition(",")[0]
        return isinstance(value, list | tuple) and all(_is(inner, one) for one in value)
    return isinstance(value, _KINDS[kind]) and (kind == "bool" or not isinstance(value, bool))
