"""Measures each line of config.properties: the server without the line against the server as it is.

The model does nothing, so that only the frontend is measured.
"""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchmar.server import LOG_CONFIG, ServerConfig

from .report import spread
from .rounds import Entry
from .systems import System, torchserve

AS_IT_IS = "as it is"

_POOL = "-Djava.util.concurrent.ForkJoinPool.common.parallelism=16"
_HEAP = ("-Xms64m", "-Xmx512m")
_COLLECTOR = "-XX:+UseSerialGC"


@dataclass(frozen=True)
class Without:
    """Describes a server without settings, options of Java, or our logging; `options` are added."""

    name: str
    settings: tuple[str, ...] = ()
    vmargs: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    logging: bool = False

    def changed(self, config: ServerConfig) -> ServerConfig:
        """Return the configuration without the settings. Raises ValueError if it lacks them already."""
        settings = dict(config.settings)
        for key in self.settings:
            if settings.pop(key, None) is None:
                raise ValueError(f"{self.name}: config.properties has no {key}")
        options = settings["vmargs"].split()
        for option in self.vmargs:
            options.remove(option)
        settings["vmargs"] = " ".join([*options, *self.options])
        return ServerConfig(None, settings)

    def prepare(self, folder: Path) -> None:
        """Put TorchServe's own logging into the server's folder, if `logging` is set."""
        if self.logging:
            spec = importlib.util.find_spec("ts")
            assert spec is not None
            assert spec.origin is not None
            jar = Path(spec.origin).parent / "frontend" / "model-server.jar"
            with zipfile.ZipFile(jar) as content:
                (folder / LOG_CONFIG).write_bytes(content.read(LOG_CONFIG))


VARIANTS = (
    Without(AS_IT_IS),
    Without("TorchServe's logging", logging=True),
    Without("no pool for batches", vmargs=(_POOL,)),
    Without("netty threads by default", settings=("number_of_netty_threads", "netty_client_threads")),
    Without("requests in the heap", settings=("prefer_direct_buffer",)),
    Without("system metrics", settings=("disable_system_metrics",)),
    Without("heap without bounds", vmargs=_HEAP),
    Without("Java's collector", vmargs=(_COLLECTOR,)),
    Without("first compiler only", options=("-XX:TieredStopAtLevel=1",)),
)


def systems(archive: Path) -> list[System]:
    """Return systems that serve the no-op archive under each variant of config.properties."""
    return [
        torchserve.ours(
            variant.name, "none", archive, "noop", "1.0", torchserve.Installation(variant=variant)
        )
        for variant in VARIANTS
    ]


def entries(found: Sequence[Entry]) -> list[dict[str, Any]]:
    """Return a line for each variant: the rate of each load, memory, and the time to the first answer."""
    return [_line(entry) for entry in found]


def _line(entry: Entry) -> dict[str, Any]:
    labels = list(entry.visits[0].loads) if entry.visits else []
    return {
        "name": entry.name,
        "rps": {label: spread(visit.loads[label].rps for visit in entry.visits) for label in labels},
        "pss_mb": spread(visit.pss_mb for visit in entry.visits),
        "launch_s": spread(visit.launch_s for visit in entry.visits),
        "failure": entry.failure or None,
    }
