"""What whoever releases may choose: plain data, of which the command line makes its options.

It imports nothing of torchmar, so that `torchmar --help` starts at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from ..measure.recorded import Limits

_GATE = "The gate"
_REAL = "Real requests"


@dataclass(frozen=True)
class Option:
    """What the command line tells of a field, and takes for it.

    `typed` is the option's name where that is not the field's. A field that `is_path` names a file, or a
    pattern of files; one that `is_list` is typed with commas between its items.
    """

    help: str
    panel: str | None = None
    min: float | None = None
    max: float | None = None
    typed: str | None = None
    is_path: bool = False
    is_list: bool = False


@dataclass(frozen=True)
class Options:
    """Times are in seconds.

    `workers` None means as many as the default version has, or else the archive's minWorkers; `longest` None
    the version's responseTimeout, after which TorchServe itself gives up. `pinned_unseen` is for servers that
    do not tell who asks for a version by its number. A slowdown is a ratio, and an agreement the share of the
    requests that are answered as by the default version; `tolerance` is absolute and relative. Nothing is
    expected of answers to a `request` but that they are those of the default version, if there is one.
    """

    workers: Annotated[int | None, Option("Instead of as many as the default version has.", min=1)] = None
    sha256: Annotated[str | None, Option("Refuse any other archive than this.")] = None
    public_key: Annotated[
        str | None, Option("Refuse what the holder of this key (PEM) has not signed.", is_path=True)
    ] = None
    load: Annotated[
        bool, Option("Where no server says why an archive fails, load it here (this runs its code).")
    ] = True
    samples: Annotated[int, Option("Golden requests to each version.", _GATE, min=1)] = 100
    request: Annotated[
        tuple[str, ...],
        Option(
            "A request to ask as golden ones are (.json, .txt, other: bytes); several times.",
            _GATE,
            is_path=True,
        ),
    ] = ()
    max_slowdown: Annotated[float, Option("How many times slower it may be.", _GATE, min=0.1)] = 1.5
    min_agreement: Annotated[
        float | None,
        Option(
            "Share of golden requests to be answered as now; by default model.yaml's accept.agreement.",
            _GATE,
            min=0,
            max=1,
        ),
    ] = None
    tolerance: Annotated[
        float | None,
        Option("For numbers in answers; by default model.yaml's accept.max_abs_error.", _GATE, min=0),
    ] = None
    gate_seconds: Annotated[
        float,
        Option(
            "More samples for at most this, if needed; a slow model gets longer, to have 59.", _GATE, min=0
        ),
    ] = 10.0
    promote_inconclusive: Annotated[bool, Option("Even if the gate cannot tell.", _GATE)] = False
    watch: Annotated[float, Option("Seconds to watch the new default.", _GATE, min=0)] = 10.0
    shadow: Annotated[
        tuple[str, ...],
        Option("Recorded requests (JSON lines, HAR) to replay; several times.", _REAL, is_path=True),
    ] = ()
    shadow_agreement: Annotated[
        float, Option("Share of them to be answered as now.", _REAL, min=0, max=1)
    ] = 0.95
    shadow_limit: Annotated[int, Option("How many of them, the first ones.", _REAL, min=1)] = 200
    shadow_max_bytes: Annotated[int, Option("Those with larger bodies are left out.", _REAL, min=1)] = (
        1_000_000
    )
    shadow_fields: Annotated[
        tuple[str, ...], Option("Of JSON objects send only these: text,lang.", _REAL, is_list=True)
    ] = ()
    canary: Annotated[
        tuple[float, ...],
        Option("Percents of the traffic, step by step: 1,5,25,100.", _REAL, is_list=True),
    ] = ()
    canary_seconds: Annotated[float, Option("Each step lasts at least this.", _REAL, min=0.1)] = 30.0
    nginx: Annotated[str | None, Option("File with nginx's configuration to write.", _REAL, is_path=True)] = (
        None
    )
    nginx_reload: Annotated[str | None, Option("Command that has nginx read it.", _REAL)] = None
    nginx_listen: Annotated[str, Option("Where nginx listens for your clients.", _REAL)] = "127.0.0.1:8088"
    access_log: Annotated[str | None, Option("What nginx writes, to judge by.", _REAL, is_path=True)] = None
    longest: Annotated[
        float | None,
        Option("Seconds that the longest request takes; by default the version's responseTimeout.", min=0),
    ] = None
    pinned_unseen: bool = False
    drain_timeout: Annotated[
        float, Option("Seconds to wait at most until nobody asks for a version any more.", min=0)
    ] = 120.0
    ready_timeout: Annotated[
        float, Option("Seconds to wait until workers are READY.", min=0, typed="--wait")
    ] = 120.0
    ignore_memory: Annotated[bool, Option("Even if both versions may not fit.")] = False

    @property
    def shadow_limits(self) -> Limits:
        """Of recorded requests."""
        from ..measure.recorded import Limits

        return Limits(self.shadow_limit, self.shadow_max_bytes, self.shadow_fields or None)

    def as_json(self) -> dict[str, Any]:
        """For the journal."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Options:
        """Back from the journal; what a later torchmar added is left out.

        Raises TypeError where somebody has written something else into it.
        """
        kinds = _kinds()
        found = cls(**{name: value for name, value in content.items() if name in kinds})
        for item in fields(cls):
            kind = kinds[item.name]
            if not _is(kind, getattr(found, item.name)):
                raise TypeError(f"{item.name}: expected {kind.__name__ if isinstance(kind, type) else kind}")
        return found


@cache
def _kinds() -> dict[str, Any]:
    """Return the types of the fields; it takes a while, and each record of a journal has options."""
    return get_type_hints(Options)


def _is(kind: Any, value: Any) -> bool:
    """Whether it is of a kind that a field above is annotated with; what JSON has for a tuple is a list."""
    if get_origin(kind) is tuple:
        return isinstance(value, list | tuple) and all(_is(get_args(kind)[0], one) for one in value)
    if kinds := get_args(kind):  # of `int | None`
        return any(_is(one, value) for one in kinds)
    return isinstance(value, int | float if kind is float else kind) and (
        kind is bool or not isinstance(value, bool)
    )
