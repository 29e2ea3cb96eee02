"""Defines the commands that make and examine archives: archive, inspect, verify, sign, schema."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ..errors import ArchiveError, TorchmarError, WorkerLoadError
from ..files import is_file, size
from ..names import shown
from ._command import INCONCLUSIVE, Shown
from ._lineage import lineage_lines, lineages_of
from ._options import Option, PythonOption, TimeoutOption
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
)
from ._price import price_lines
from ._under_way import progress

if TYPE_CHECKING:
    from ..archive import Built
    from ..mar import Archive
    from ..measure.price import Speed
    from ..worker import Check, Verified

NAMED = ("path", "name", "version", "sha256")  # of an archive
# Of a table: characters of a cell, and rows.
_WIDEST, _MOST = 500, 1000


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
    parent: Annotated[Path | None, "The archive that this one follows; recorded in its lineage."] = None,
    data: Annotated[
        list[str] | None, "ROLE=PATH, as train=data/train: a data set to record by its digest."
    ] = None,
    revision: Annotated[
        str | None,
        "The code's revision to record: `auto` asks git, `none` records none, anything else is recorded as "
        "it is; by default `auto` with --parent or --data, else `none`.",
    ] = None,
) -> Iterator[Shown]:
    """Build NAME-VERSION.mar: export, check parity with the module, pack, and load it once in a worker.

    The same inputs give the same bytes; an archive that is up to date is left alone. With --directory the
    result is a folder of the same files: TorchServe unpacks a .mar at each registration, but serves a folder
    of its model store in place. --parent, --data and --revision are recorded in the archive, see
    docs/lineage.md; without them the bytes do not depend on git.

    Example: torchmar archive models/resnet18 --weights random
    """
    from ..archive import build
    from ..export import Weights
    from ..spec import load_model

    overrides = {"version": version, "runtime": runtime}
    given = {key: value for key, value in overrides.items() if value is not None}
    sources = [load_model(model, given) for model in models]
    lineages = lineages_of(sources, parent, data or (), revision)
    for source, (lineage, notes) in zip(sources, lineages, strict=True):
        named = f"{source.spec.name} {source.spec.version}"
        with after_ctrl_c(f"nothing was written of {named}"), progress(named) as step:
            built = build(
                source,
                store,
                weights=Weights(weights, seed),
                directory=directory,
                force=replace,
                progress=step,
                lineage=lineage,
            )
        yield Shown(_built(built), partial(_print_built, built), notes)


def _built(built: Built) -> dict[str, Any]:
    check = built.check
    return {
        **picked(built.archive, *NAMED, "contents_sha256", "parity", "price", "lineage"),
        "bytes": built.archive.size,
        **picked(built, "was_there", "notes", "speed"),
        "load_seconds": None if check is None else check.load_seconds,
        "caveats": () if check is None else check.caveats,
    }


def _print_built(built: Built) -> None:
    archive, check = built.archive, built.check
    state = "up to date" if built.was_there else "built"
    out.print(f"[bold]{escape(archive.path)}[/bold]  {size(archive.size)}  {state}")
    print_lines(*(f"  {line}" for line in _digests(archive)))
    print_lines(*(f"  note: {shown(note, _WIDEST)}" for note in built.notes))
    if archive.parity is not None:
        print_lines(f"  parity {_parity(archive.parity)}")
    print_lines(*(f"  {line}" for line in _price(archive, built.speed)))
    print_lines(*(f"  {line}" for line in lineage_lines(archive.lineage)))
    print_lines(*(f"  {line}" for line in _reference_lines(archive)))
    if check is not None:
        golden = f", {len(check.golden)} golden answered" if check.golden else ""
        print_lines(f"  loaded in a worker in {check.load_seconds:.1f} s{golden}")
        print_lines(*(f"  golden {shown(one.name)} → {short_answer(one.expected)}" for one in check.golden))
        print_lines(*(f"  note: {caveat}" for caveat in check.caveats), style="dim")


def _digests(archive: Archive) -> list[str]:
    """Return the digest of a .mar file, and that of its contents, which a folder shares."""
    of_file = [f"sha256   {archive.sha256}"] if archive.path.is_file() else []
    return [*of_file, f"contents {archive.contents_sha256}"]


def _parity(parity: Mapping[str, Any]) -> str:
    agreement = parity.get("agreement", parity.get("top1_agreement"))  # its older name
    text = (
        f"{parity.get('runtime')}: max_abs_error {parity.get('max_abs_error')}, agreement {agreement} on "
        f"{parity.get('inputs')} inputs, {parity.get('golden')} of them golden"
    )
    return shown(text, _WIDEST)


def _price(archive: Archive, speed: Speed | None = None) -> list[str]:
    lines = [] if archive.price is None else price_lines(archive.price, speed)
    return [shown(line, _WIDEST) for line in lines]


def _reference(archive: Archive) -> dict[str, Any] | None:
    """Return what an archive's reference is of, or what is wrong with it; None without one."""
    from ..drift import reference_of

    try:
        found = reference_of(archive)
    except ArchiveError as error:
        return {"error": str(error)}
    return None if found is None else {**picked(found, "answered", "refused", "data_sha256", "figures")}


def _reference_lines(archive: Archive) -> Iterator[str]:
    found = _reference(archive)
    if found is None:
        return
    if "error" in found:
        yield shown(f"reference {found['error']}", _WIDEST)
        return
    refused = f", {found['refused']:,} refused" if found["refused"] else ""
    names = ", ".join(found["figures"])
    yield shown(f"reference of {found['answered']:,} requests{refused}: {names}", _WIDEST)


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

    named = f"{shown(archive.name)} {shown(archive.version)}"
    out.print(f"[bold]{escape(named)}[/bold]  {escape(archive.path)}")
    print_lines(*_digests(archive))
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
        print_lines(f"Parity   {_parity(archive.parity)}")
    about = (*_price(archive), *_reference_lines(archive), *lineage_lines(archive.lineage))
    print_lines(*(f"{line[:1].upper()}{line[1:]}" for line in about))
    if archive.build is not None:
        tools = archive.build.get("toolchain")
        listed = ", ".join(f"{k} {v}" for k, v in tools.items()) if isinstance(tools, dict) else tools
        print_lines(shown(f"Built by torchmar {archive.build.get('torchmar')} with {listed}", _WIDEST))
        if needed := archive.build.get("requirements"):
            print_lines(f"Needs    {shown(str(needed), _WIDEST)}")
    if archive.is_pickled:
        out.print(f"[yellow]Pickle[/yellow]   {PICKLED}")
    for fault in archive.faults:
        out.print(f"[red]TorchServe cannot serve it:[/red] {escape(fault)}")
    none = "[yellow]none: torchmar did not build the archive, or someone repacked it[/yellow]"
    match = "[red]do not match:[/red]" if problems else "match"
    out.print(f"Digests  {none if archive.digests is None else match}")
    print_lines(*(f"  {shown(problem, _WIDEST)}" for problem in problems))


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
        **picked(
            archive, *NAMED, "manifest", "config", "files", "parity", "price", "lineage", "build", "faults"
        ),
        "reference": _reference(archive),
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
    from .. import worker

    if missing := [file for file in request or () if not is_file(file)]:
        raise ArchiveError(f"--request {missing[0]}: no such file")
    if request and not load:
        raise ArchiveError("leave out --no-load: only a loaded archive can answer a --request")
    if python is not None and shutil.which(python) is None:
        raise ArchiveError(f"--python {python}: give the path of a Python that can be run")
    for mar in mars:
        try:
            with progress(str(mar)) as step:
                verified = worker.verify(
                    mar,
                    public_key=public_key,
                    load=load,
                    timeout=timeout,
                    python=python or sys.executable,
                    requests=request or (),
                    progress=step,
                )
        except (TorchmarError, OSError) as error:  # the other archives are still checked
            facts = {"path": mar, "ok": False, "outcome": "failed", "error": str(error)}
            yield Shown(facts, partial(print_error, as_torchmars(error)), code=1)
        else:
            code = {"failed": 1, "unasked": INCONCLUSIVE}.get(verified.outcome, 0)
            show = partial(_print_verified, verified, public_key)
            yield Shown(_verified_facts(verified, public_key), show, code=code)


def _verified_facts(verified: Verified, public_key: Path | None) -> dict[str, Any]:
    archive, check = verified.archive, verified.check
    return {
        "path": archive.path,
        "ok": verified.outcome in {"ok", "not loaded"},
        "outcome": verified.outcome,
        "digests": "none" if archive.digests is None else "match",
        "built": archive.build is not None,
        "signed_by": public_key,
        "loaded": check is not None,
        "asked": 0 if check is None else check.asked,
        "check": check,
    }


def _print_verified(verified: Verified, public_key: Path | None) -> None:
    archive, check = verified.archive, verified.check
    if check is not None and not check.ok:
        print_error(WorkerLoadError(check.reason, check.details))
        _print_answers(check)
        return
    words = ["no digests" if archive.digests is None else "digests match"]
    if public_key is not None:
        words.append(f"signed by {public_key}")
    words.append("not loaded" if check is None else f"loads in {check.load_seconds:.1f} s")
    if check is not None and check.golden:
        words.append(f"{len(check.golden)} golden answered as expected")
    if check is not None and (count := len(check.requests)):
        words.append(f"{count} request{'' if count == 1 else 's'} answered")
    style = "green" if verified.outcome == "ok" else "yellow"
    line = escape(f"{archive.path}: {', '.join(words)}")
    out.print(f"[{style}]{verified.outcome}[/{style}]  {line}")
    if check is None:
        return
    _print_answers(check)
    if not check.asked:
        by = "name a folder of requests as `golden` in model.yaml and build it again"
        by = by if archive.build is not None else "have `torchmar adopt` record golden answers"
        print_lines(f"    to do: {by}, or give one with --request FILE", style="dim")
    print_lines(*(f"    note: {caveat}" for caveat in check.caveats), style="dim")


def sign(
    mars: Annotated[list[Path], "Archives: .mar files or folders."],
    *,
    key: Annotated[Path, "Private key of an elliptic curve (PEM)."],
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


def _print_answers(check: Check) -> None:
    for each in check.requests:
        answer = each.answer
        if isinstance(answer, dict) and answer.keys() == {"answer"}:
            answer = json_text(answer["answer"])
        found = f"{each.status}: {answer}" if each.ok else str(answer)
        print_lines(f"    {shown(f'{each.name} → {found}', _WIDEST)}")


def schema() -> Shown:
    """Print the JSON Schema of model.yaml, for editors."""
    from ..spec import json_schema

    return Shown(json_schema())
