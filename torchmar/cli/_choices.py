"""What a release may be told, as options of the command: torchmar.release.Options, for people to type."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..release import Options

_GATE = "The gate"
_REAL = "Real requests"

LongestOption = Annotated[
    float | None,
    typer.Option(
        help="Seconds that the longest request takes; by default the version's responseTimeout.", min=0
    ),
]
DrainTimeoutOption = Annotated[
    float, typer.Option(help="Seconds to wait at most until nobody asks for a version any more.", min=0)
]
NginxReloadOption = Annotated[
    str | None,
    typer.Option(
        "--nginx-reload",
        help="Command that has nginx read its file, for a canary: none is taken from a journal.",
    ),
]
WaitOption = Annotated[float, typer.Option("--wait", help="Seconds to wait until workers are READY.", min=0)]


@dataclass(frozen=True)
class Choices:
    """Named as the fields of Options. Its defaults are written here again, as importing them takes half a
    second that `--help` has not; a test holds both against each other.
    """

    workers: Annotated[
        int | None, typer.Option(help="Instead of as many as the default version has.", min=1)
    ] = None
    sha256: Annotated[str | None, typer.Option(help="Refuse any other archive than this.")] = None
    public_key: Annotated[
        Path | None, typer.Option(help="Refuse what the holder of this key (PEM) has not signed.")
    ] = None
    load: Annotated[
        bool,
        typer.Option(help="Where no server says why an archive fails, load it here (this runs its code)."),
    ] = True
    samples: Annotated[
        int, typer.Option(help="Golden requests to each version.", min=1, rich_help_panel=_GATE)
    ] = 100
    request: Annotated[
        list[Path] | None,
        typer.Option(
            help="A request to ask as golden ones are (.json, .txt, other: bytes); several times.",
            rich_help_panel=_GATE,
        ),
    ] = None
    max_slowdown: Annotated[
        float, typer.Option(help="How many times slower it may be.", min=0.1, rich_help_panel=_GATE)
    ] = 1.5
    min_agreement: Annotated[
        float | None,
        typer.Option(
            help="Share of golden requests to be answered as now; by default model.yaml's accept.agreement.",
            min=0,
            max=1,
            rich_help_panel=_GATE,
        ),
    ] = None
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="For numbers in answers; by default model.yaml's accept.max_abs_error.",
            min=0,
            rich_help_panel=_GATE,
        ),
    ] = None
    gate_seconds: Annotated[
        float,
        typer.Option(
            help="More samples for at most this, if needed; a slow model gets longer, to have 59.",
            min=0,
            rich_help_panel=_GATE,
        ),
    ] = 10.0
    promote_inconclusive: Annotated[
        bool,
        typer.Option("--promote-inconclusive", help="Even if the gate cannot tell.", rich_help_panel=_GATE),
    ] = False
    watch: Annotated[
        float, typer.Option(help="Seconds to watch the new default.", min=0, rich_help_panel=_GATE)
    ] = 10.0
    shadow: Annotated[
        list[str] | None,
        typer.Option(
            help="Recorded requests (JSON lines, HAR) to replay; several times.", rich_help_panel=_REAL
        ),
    ] = None
    shadow_agreement: Annotated[
        float,
        typer.Option(help="Share of them to be answered as now.", min=0, max=1, rich_help_panel=_REAL),
    ] = 0.95
    shadow_limit: Annotated[
        int, typer.Option(help="How many of them, the first ones.", min=1, rich_help_panel=_REAL)
    ] = 200
    shadow_max_bytes: Annotated[
        int, typer.Option(help="Those with larger bodies are left out.", min=1, rich_help_panel=_REAL)
    ] = 1_000_000
    shadow_fields: Annotated[
        str, typer.Option(help="Of JSON objects send only these: text,lang.", rich_help_panel=_REAL)
    ] = ""
    canary: Annotated[
        str, typer.Option(help="Percents of the traffic, step by step: 1,5,25,100.", rich_help_panel=_REAL)
    ] = ""
    canary_seconds: Annotated[
        float, typer.Option(help="Each step lasts at least this.", min=0.1, rich_help_panel=_REAL)
    ] = 30.0
    nginx: Annotated[
        Path | None, typer.Option(help="File with nginx's configuration to write.", rich_help_panel=_REAL)
    ] = None
    nginx_reload: Annotated[
        str | None, typer.Option(help="Command that has nginx read it.", rich_help_panel=_REAL)
    ] = None
    nginx_listen: Annotated[
        str, typer.Option(help="Where nginx listens for your clients.", rich_help_panel=_REAL)
    ] = "127.0.0.1:8088"
    access_log: Annotated[
        Path | None, typer.Option(help="What nginx writes, to judge by.", rich_help_panel=_REAL)
    ] = None
    longest: LongestOption = None
    drain_timeout: DrainTimeoutOption = 120.0
    ready_timeout: WaitOption = 120.0
    ignore_memory: Annotated[
        bool, typer.Option("--ignore-memory", help="Even if both versions may not fit.")
    ] = False
    wave: Annotated[int, typer.Option(help="Servers at once, with --hosts.", min=1)] = 1

    def options(self) -> Options:
        """For the release, which may be resumed from another folder: with absolute paths."""
        from ..release import Options

        paths = {
            name: None if path is None else str(path.resolve())
            for name, path in (
                ("public_key", self.public_key),
                ("nginx", self.nginx),
                ("access_log", self.access_log),
            )
        }
        shadow = tuple(os.path.abspath(one) for one in self.shadow or ())  # noqa: PTH100 (may be a pattern)
        fields = tuple(part.strip() for part in self.shadow_fields.split(",") if part.strip())
        requests = tuple(str(file.resolve()) for file in self.request or ())
        lists = {
            "request": requests,
            "shadow": shadow,
            "shadow_fields": fields,
            "canary": _percents(self.canary),
        }
        return Options(**{**asdict(self), **paths, **lists})


def _percents(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise typer.BadParameter(
            f"{text!r}: expected percents, as 1,5,25,100", param_hint="--canary"
        ) from None
