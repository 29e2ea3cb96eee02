"""Defines the command line: only this package prints, exits or reads the environment.

Each command imports what it needs when it runs, so that `torchmar --help` starts at once.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .. import __version__
from ..errors import TorchmarError
from ._command import TYPED, add
from ._output import after_ctrl_c, as_torchmars, print_error
from .adopting import adopt, golden
from .by_hand import register, repair, scale, set_default, unregister
from .compressing import compress
from .drifting import drift
from .evaluating import evaluate
from .finetuning import finetune
from .history import history
from .local import doctor, serve, stop
from .maintaining import maintain
from .models import status, versions
from .packaging import archive, inspect, schema, sign, verify
from .predicting import predict
from .releasing import reconcile, release, resume, retire, rollback
from .starting import init, quickstart
from .tuning import tune


class _Commands(TyperGroup):
    """Prints `interrupted` after Ctrl-C, where typer would end without a word."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep what was typed, for messages that suggest to type it again."""
        ctx.meta[TYPED] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was typed."""
        with after_ctrl_c(""):
            return super().invoke(ctx)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "From a trained PyTorch model to a TorchServe server that can be trusted.\n\n"
        "[bold]torchmar quickstart[/bold] shows all of it on a classifier. By hand: [bold]init[/bold] a "
        "model folder, [bold]archive[/bold] it into model_store/, [bold]serve[/bold], [bold]register[/bold] "
        "the archive, [bold]predict[/bold], and [bold]set-default[/bold] when a new version is good."
    ),
    epilog=(
        "Exit codes: 0 done; 1 failed or refused; 2 not understood; 3 nothing failed, but it is not known "
        "whether an archive is good; 130 Ctrl-C."
    ),
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"torchmar {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the options of torchmar itself."""


_PANELS = {
    "Models and archives": (
        archive,
        inspect,
        verify,
        sign,
        schema,
        adopt,
        golden,
        evaluate,
        drift,
        finetune,
        compress,
        maintain,
        tune,
    ),
    "TorchServe on this machine": (serve, stop, doctor),
    "A running server": (status, versions, predict),
    "Releases": (release, rollback, resume, reconcile, retire, history),
    "By hand": (register, scale, repair, unregister, set_default),
    "Start here": (init,),
}
for panel, commands in _PANELS.items():
    add(app, panel, *commands)
app.command(rich_help_panel="Start here")(quickstart)


def main() -> None:
    """Run `torchmar`: a user's mistake ends in one message and exit code 1, never in a traceback."""
    _open_what_is_closed()
    if os.environ.get("COLUMNS") == "0":  # set by terminals without a size: no help would be printed
        del os.environ["COLUMNS"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may lack characters of the text
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except BrokenPipeError:  # `torchmar … | head`
        sys.stderr.close()
        sys.exit(1)
    except (TorchmarError, OSError) as error:
        print_error(as_torchmars(error))
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _open_what_is_closed() -> None:
    """Open standard streams that were closed (`torchmar … >&-`) on the null device.

    Otherwise the next file that is opened, such as a journal, would get their numbers, and with them
    whatever a child process prints.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    for name, writes in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, writes, encoding="utf-8"))  # noqa: SIM115, PTH123 (to the end)
