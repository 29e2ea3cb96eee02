"""Defines the commands that make and examine archives: archive, inspect, verify, sign, schema."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ArchiveError, TorchmarError, WorkerLoadError
from ..files import is_file
from ..names import shown
from ..release._options import Option
from ._command import INCONCLUSIVE, Shown, add
from ._options import PythonOption, TimeoutOption
from ._output import (
    after_ctrl_c,
    as_torchmars,
    escape,
    json_text,
    out,
    picked,
    print_error,
    print_lines,
    print_table,
    short_answer,
    size,
)
from ._price import price_lines
from ._under_way import progress

if TYPE_CHECKING:
    from ..archive import Built
    from ..mar import Archive
    from ..measure.price import Speed
    from ..worker import Check

NAMED = ("path", "name", "version", "sha256")  # of an archive
# Of a table: characters of a cell, and rows.
_WIDEST, _MOST = 500, 1000


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    add(app, "Models and archives", archive, inspect, verify, sign, schema)


def archive(
    models: Annotated[list[Path], "Model folders, each with a model.yaml."],
    store: Annotated[Path, "Folder to write the archive into."] = Path("model_store"),
    version: Annotated[str | None, "The version; by default that of model.yaml."] = None,
    runtime: Annotated[str | None, "onnx, aoti or eager; by default that of model.yaml."] = None,
    weights: Annotated[
        str, "`pretrained`, `random`, or a file with a state dict or a checkpoint."
    ] = "pretrained",
    seed: Annotated[
        int, Option("Seed of random weights and of the parity check's inputs.", min=0, max=2**63)
    ] = 0,
    directory: Annotated[bool, "Build a folder NAME-VERSION, which TorchServe serves in place."] = False,
    replace: Annotated[bool, "Replace an archive of the same version."] = False,
) -> Iterator[Shown]:
    """Build NAME-VERSION.mar: export, check parity with the module, pack, and load it once in a worker.

    The same inputs give the same bytes; an archive that is up to date is left alone. With --directory the
    result is a folder of the same files: TorchServe unpacks a .mar at each registration, but serves a folder
    of its model store in place.

    Example: torchmar archive models/resnet18 --weights random
    """
    from ..archive import build
    from ..export import Weights
    from ..spec import load_model

    overrides = {
        key: value for key, value in (("version", version), ("runtime", runtime)) if value is not None
    }
    sources = [load_model(model, overrides) for model in models]
    for source in sources:
        named = f"{source.spec.name} {source.spec.version}"
        with after_ctrl_c(f"nothing was written of {named}"), progress(named) as step:
            built = build(
                source,
                store,
                weights=Weights(weights, seed),
                directory=directory,
                force=replace,
                progress=step,
            )
        yield Shown(_built(built), partial(_print_built, built))


def _built(built: Built) -> dict[str, Any]:
    check = built.check
    return {
        **picked(built.archive, *NAMED, "contents_sha256", "parity", "price"),
        "bytes": built.archive.size,
        **picked(built, "was_there", "notes", "speed"),
        "load_seconds": None if check is None else check.load_seconds,
        "caveats": () if check is None else check.caveats,
    }


def _print_built(built: Built) -> None:
    archive = built.archive
    out.print(f"[bold]{escape(str(archive.path))}[/bold]  {size(archive.size)}", end="  ")
    out.print("up to date" if built.was_there else "built")
    _print_digests(archive, "  ")
    for note in built.notes:
        out.print(f"  note: {escape(shown(note, _WIDEST))}")
    if archive.parity is not None:
        out.print(f"  parity {escape(shown(_parity(archive.parity), _WIDEST))}")
    for line in _price(archive, built.speed):
        out.print(f"  {line}")
    if built.check is not None:
        golden = f", {len(built.check.golden)} golden answered" if built.check.golden else ""
        out.print(f"  loaded in a worker in {built.check.load_seconds:.1f} s{golden}")
        for each in built.check.golden:
            out.print(f"  golden {escape(shown(each.name))} → {escape(short_answer(each.expected))}")
        for caveat in built.check.caveats:
            out.print(f"  note: {escape(caveat)}", style="dim")


def _print_digests(archive: Archive, indent: str = "") -> None:
    """Print the digest of a .mar file, and that of its contents, which a folder shares."""
    if archive.path.is_file():
        out.print(f"{indent}sha256   {archive.sha256}")
    out.print(f"{indent}contents {archive.contents_sha256}")


def _price(archive: Archive, speed: Speed | None = None) -> list[str]:
    lines = [] if archive.price is None else price_lines(archive.price, speed)
    return [escape(shown(line, _WIDEST)) for line in lines]


def _parity(parity: Any) -> str:
    agreement = parity.get("agreement", parity.get("top1_agreement"))  # its older name
    return (
        f"{parity.get('runtime')}: max_abs_error {parity.get('max_abs_error')}, agreement "
        f"{agreement} on {parity.get('inputs')} inputs, "
        f"{parity.get('golden')} of them golden"
    )


def inspect(
    mar: Annotated[Path, "A .mar, or a folder with the same files, built by any tool."],
) -> Shown:
    """Show the contents of an archive, without running its code."""
    from ..mar import read

    archive = read(mar)
    problems = archive.problems()
    return Shown(_facts(archive, problems), partial(_print_inside, archive, problems))


def _print_inside(archive: Archive, problems: Sequence[str]) -> None:
    from ..mar import PICKLED

    out.print(f"[bold]{escape(shown(archive.name))} {escape(shown(archive.version))}[/bold]", end="  ")
    out.print(escape(archive.path))
    _print_digests(archive)
    out.print()
    model = {key: value for key, value in archive.manifest["model"].items() if key != "modelName"}
    rows = [*model.items(), *((k, v) for k, v in archive.manifest.items() if k != "model")]
    print_table("Manifest", ["key", "value"], _brief(rows))
    if archive.config:
        out.print()
        print_table("model-config.yaml", ["key", "value"], _brief(_flat(archive.config)))
    out.print()
    files = [(entry.name, f"{entry.size:,}", entry.sha256[:16]) for entry in archive.files]
    print_table("Files", ["name", "bytes>", "sha256 (first 16)"], _brief(files))
    out.print()
    if archive.parity is not None:
        out.print(f"Parity   {escape(shown(_parity(archive.parity), _WIDEST))}")
    for line in _price(archive):
        out.print(f"{line[:1].upper()}{line[1:]}")
    if archive.build is not None:
        tools = archive.build.get("toolchain")
        listed = ", ".join(f"{k} {v}" for k, v in tools.items()) if isinstance(tools, dict) else tools
        built = f"Built by torchmar {archive.build.get('torchmar')} with {listed}"
        out.print(escape(shown(built, _WIDEST)))
        if needed := archive.build.get("requirements"):
            out.print(f"Needs    {escape(shown(str(needed), _WIDEST))}")
    if archive.is_pickled:
        out.print(f"[yellow]Pickle[/yellow]   {PICKLED}")
    for fault in archive.faults:
        out.print(f"[red]TorchServe cannot serve it:[/red] {escape(fault)}")
    if archive.digests is None:
        out.print(
            "Digests  [yellow]none: torchmar did not build the archive, or someone repacked it[/yellow]"
        )
    elif problems:
        out.print("Digests  [red]do not match:[/red]")
        for problem in problems:
            out.print(f"  {escape(shown(problem, _WIDEST))}")
    else:
        out.print("Digests  match")


def _brief(rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Yield rows cut to fit a screen: a stranger's manifest may be as long as a book."""
    for number, row in enumerate(rows):
        if number == _MOST:
            yield ("…", "--json shows all", *[""] * (len(row) - 2))
            return
        yield tuple(shown(str(cell), _WIDEST) for cell in row)


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield settings with dotted keys: handler.image.size."""
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _facts(archive: Archive, problems: list[str]) -> dict[str, Any]:
    return {
        **picked(archive, *NAMED, "manifest", "config", "files", "parity", "price", "build", "faults"),
        "pickled": archive.is_pickled,
        "digests": "none" if archive.digests is None else ("differ" if problems else "match"),
        "problems": problems,
    }


def verify(
    mars: Annotated[list[Path], "Archives: .mar files or folders."],
    timeout: TimeoutOption = 300.0,
    load: Annotated[bool, "Load the archive, which runs its code."] = True,
    python: PythonOption = None,
    public_key: Annotated[
        Path | None, "Refuse archives that the holder of this key (PEM) has not signed."
    ] = None,
    request: Annotated[
        list[Path] | None, "A further request to send (.json, .txt, other: bytes); may be repeated."
    ] = None,
) -> Iterator[Shown]:
    """Check an archive's digests, load it as TorchServe would, and replay its golden requests.

    Exit code 1 if a check fails, 3 if none fails but an archive had no request: it has no golden requests,
    and no --request was given. Loading runs the archive's code: give --no-load for an archive that you do
    not trust. The checks find mistakes; only --public-key protects against malice.
    """
    if missing := [file for file in request or () if not is_file(file)]:
        raise ArchiveError(f"--request {missing[0]}: no such file")
    if request and not load:
        raise ArchiveError("leave out --no-load: only a loaded archive can answer a --request")
    if python is not None and shutil.which(python) is None:
        raise ArchiveError(f"--python {python}: give the path of a Python that can be run")
    run = partial(_load, timeout, python or sys.executable, request or ()) if load else None
    for mar in mars:
        try:
            with progress(str(mar)) as step:
                result = _verified(mar, public_key, run, step)
        except (TorchmarError, OSError) as error:  # the other archives are still checked
            facts = {"path": mar, "ok": False, "outcome": "failed", "error": str(error)}
            yield Shown(facts, partial(print_error, as_torchmars(error)), code=1)
        else:
            code = {"failed": 1, "unasked": INCONCLUSIVE}.get(result["outcome"], 0)
            yield Shown(result, partial(_print_verified, result), code=code)


def _load(timeout: float, python: str, requests: Sequence[Path], mar: Path) -> Check:
    from ..worker import check_archive

    return check_archive(mar, timeout=timeout, python=python, requests=requests)


def _verified(
    mar: Path, public_key: Path | None, run: Callable[[Path], Check] | None, step: Callable[[str], None]
) -> dict[str, Any]:
    """Return the result for an archive. Raises TorchmarError, OSError for one that is refused unloaded."""
    from ..mar import verify as check_digests
    from ..signature import verify_signature

    step("reading")
    archive = check_digests(mar)
    if public_key is not None:
        verify_signature(archive, public_key)
    check = None
    if run is not None:
        step("loading in a worker")
        check = run(mar)
    outcome = "not loaded"
    if check is not None:
        outcome = "failed" if not check.ok else "ok" if check.asked else "unasked"
    return {
        "path": mar,
        "ok": outcome in {"ok", "not loaded"},
        "outcome": outcome,
        "digests": "none" if archive.digests is None else "match",
        "built": archive.build is not None,
        "signed_by": public_key,
        "loaded": check is not None,
        "asked": 0 if check is None else check.asked,
        "check": check,
    }


def sign(
    mars: Annotated[list[Path], "Archives: .mar files or folders."],
    key: Annotated[Path, typer.Option(help="Private key of an elliptic curve (PEM).")],
) -> Iterator[Shown]:
    """Sign archives as OpenSSF model signing does, each in a file X.mar.sig beside it.

    `openssl ecparam -name prime256v1 -genkey -noout -out private.pem` makes a private key, and `openssl ec
    -in private.pem -pubout -out public.pem` the public key for `verify` and `release --public-key`.
    """
    from ..mar import verify as check_digests
    from ..signature import sign as sign_archive

    for mar in mars:
        signature = sign_archive(check_digests(mar), key)
        yield Shown({"path": mar, "signature": signature}, partial(print_lines, str(signature)))


def _print_verified(result: Mapping[str, Any]) -> None:
    check: Check | None = result["check"]
    if check is not None and not check.ok:
        print_error(WorkerLoadError(check.reason, check.details))
        _print_answers(check)
        return
    words = ["no digests" if result["digests"] == "none" else "digests match"]
    if result["signed_by"] is not None:
        words.append(f"signed by {result['signed_by']}")
    words.append("not loaded" if check is None else f"loads in {check.load_seconds:.1f} s")
    if check is not None and check.golden:
        words.append(f"{len(check.golden)} golden answered as expected")
    if check is not None and check.requests:
        count = len(check.requests)
        words.append(f"{count} request{'' if count == 1 else 's'} answered")
    style = "green" if result["outcome"] == "ok" else "yellow"
    word = f"[{style}]{result['outcome']}[/{style}]"
    out.print(f"{word}  {escape(str(result['path']))}: {', '.join(words)}")
    if check is None:
        return
    _print_answers(check)
    if not check.asked:
        add = "have `torchmar adopt` record golden answers"
        if result["built"]:
            add = "name a folder of requests as `golden` in model.yaml and build it again"
        add += ", or give one with --request FILE"
        out.print(f"    to do: {add}", style="dim")
    for caveat in check.caveats:
        out.print(f"    note: {escape(caveat)}", style="dim")


def _print_answers(check: Check) -> None:
    for each in check.requests:
        answer = each.answer
        if isinstance(answer, dict) and answer.keys() == {"answer"}:
            answer = json_text(answer["answer"])
        line = f"{each.name} → {each.status}: {answer}" if each.ok else f"{each.name} → {answer}"
        out.print(f"    {escape(shown(line, _WIDEST))}")


def schema() -> Shown:
    """Print the JSON Schema of model.yaml, for editors."""
    from ..spec import json_schema

    return Shown(json_schema())
