"""Defines the options of a release: plain data, which the command line turns into its options.

The module imports nothing of torchmar, so that `torchmar --help` starts at once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    from ..measure.recorded import Limits

_GATE = "The gate"
_REAL = "Real requests"


@dataclass(frozen=True)
class Option:
    """Describes a field of Options for the command line.

    `typed` is the option's name if it differs from the field's. A field that `is_path` names a file, or a
    pattern of files; the items of a field that `is_list` are typed with commas between them.
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
    """Holds the options of a release; times are in seconds.

    `workers` None means as many as the default version has, or else the archive's minWorkers; `longest` None
    means the version's responseTimeout, after which TorchServe itself gives up. `pinned_unseen` is for
    servers that do not count requests which name a version. A slowdown is a ratio; an agreement is the share
    of requests that both versions answer alike; `tolerance` is absolute and relative. An answer to a
    `request` only has to agree with that of the default version, if there is one.
    """

    workers: Annotated[
        int | None, Option("Number of workers; by default as many as the default version has.", min=1)
    ] = None
    sha256: Annotated[str | None, Option("Refuse an archive with another SHA-256.")] = None
    public_key: Annotated[
        str | None,
        Option("Refuse an archive that the holder of this key (PEM) has not signed.", is_path=True),
    ] = None
    load: Annotated[
        bool, Option("If no server says why an archive fails, load it here, which runs its code.")
    ] = True
    samples: Annotated[int, Option("Golden requests to send to each version.", _GATE, min=1)] = 100
    request: Annotated[
        tuple[str, ...],
        Option(
            "A further request, sent as golden ones are (.json, .txt, other: bytes); may be repeated.",
            _GATE,
            is_path=True,
        ),
    ] = ()
    max_slowdown: Annotated[
        float, Option("How many times slower the new version may be.", _GATE, min=0.1)
    ] = 1.5
    min_agreement: Annotated[
        float | None,
        Option(
            "Share of golden requests with equal answers; by default model.yaml's accept.agreement.",
            _GATE,
            min=0,
            max=1,
        ),
    ] = None
    tolerance: Annotated[
        float | None,
        Option(
            "Tolerance of numbers in answers; by default model.yaml's accept.max_abs_error.", _GATE, min=0
        ),
    ] = None
    gate_seconds: Annotated[
        float,
        Option(
            "Seconds for more samples, if needed; a slow model gets longer, to have 59 samples.", _GATE, min=0
        ),
    ] = 10.0
    promote_inconclusive: Annotated[bool, Option("Release even if the gate is inconclusive.", _GATE)] = False
    watch: Annotated[float, Option("Seconds to watch the new default.", _GATE, min=0)] = 10.0
    shadow: Annotated[
        tuple[str, ...],
        Option("Recorded requests (JSON lines, HAR) to replay; may be repeated.", _REAL, is_path=True),
    ] = ()
    shadow_agreement: Annotated[
        float, Option("Share of recorded requests with equal answers.", _REAL, min=0, max=1)
    ] = 0.95
    shadow_limit: Annotated[int, Option("Replay only the first N of them.", _REAL, min=1)] = 200
    shadow_max_bytes: Annotated[
        int, Option("Leave out recorded requests with larger bodies.", _REAL, min=1)
    ] = 1_000_000
    shadow_fields: Annotated[
        tuple[str, ...], Option("Send only these fields of JSON objects: text,lang.", _REAL, is_list=True)
    ] = ()
    canary: Annotated[
        tuple[float, ...],
        Option("Percentages of the traffic, step by step: 1,5,25,100.", _REAL, is_list=True),
    ] = ()
    canary_seconds: Annotated[float, Option("Seconds that each step lasts at least.", _REAL, min=0.1)] = 30.0
    nginx: Annotated[str | None, Option("File to write nginx's configuration to.", _REAL, is_path=True)] = (
        None
    )
    nginx_reload: Annotated[str | None, Option("Command that makes nginx reload that file.", _REAL)] = None
    nginx_listen: Annotated[str, Option("Address at which nginx listens for your clients.", _REAL)] = (
        "127.0.0.1:8088"
    )
    access_log: Annotated[
        str | None, Option("nginx's access log, which the canary is judged by.", _REAL, is_path=True)
    ] = None
    longest: Annotated[
        float | None,
        Option("Seconds that the longest request takes; by default the version's responseTimeout.", min=0),
    ] = None
    pinned_unseen: bool = False
    drain_timeout: Annotated[
        float, Option("Seconds to wait at most until a version gets no more requests.", min=0)
    ] = 120.0
    ready_timeout: Annotated[
        float, Option("Seconds to wait until workers are READY.", min=0, typed="--wait")
    ] = 120.0
    ignore_memory: Annotated[bool, Option("Release even if memory may not hold both versions.")] = False

    @property
    def shadow_limits(self) -> Limits:
        """Return the limits of recorded requests."""
        from ..measure.recorded import Limits

        return Limits(self.shadow_limit, self.shadow_max_bytes, self.shadow_fields or None)

    def as_json(self) -> dict[str, Any]:
        """Return the options for the journal."""
        return asdict(self)
