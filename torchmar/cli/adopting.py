"""Defines the commands that give an archive golden requests: adopt, golden."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ..errors import ArchiveError
from ..files import size
from ..names import shown, version_problem
from ._command import Shown
from ._options import Option, PythonOption, TimeoutOption
from ._output import escape, json_text, out, picked, print_lines, print_table, short_answer
from ._under_way import progress
from .packaging import NAMED

if TYPE_CHECKING:
    from ..adopt import Adopted
    from ..compare import Comparator
    from ..golden import GoldenRequest
    from ..mar import Archive

CompareOption = Annotated[
    str | None, "How answers are compared: close, exact, boxes, …, or JSON as in compare.json."
]


def adopt(
    mar: Annotated[Path, "A .mar of torch-model-archiver, or a folder with the same files."],
    golden: Annotated[Path | None, "Folder of requests: .json, .txt, or any other file as bytes."] = None,
    record: Annotated[int | None, Option("Make the first N requests of --from golden ones.", min=1)] = None,
    recorded: Annotated[
        list[Path] | None, Option("Recorded requests (JSON lines, HAR); may be repeated.", typed="--from")
    ] = None,
    store: Annotated[Path, "Folder to write NAME-VERSION.mar into."] = Path("model_store"),
    output: Annotated[
        Path | None, "Write this .mar instead; a path without the ending .mar is a folder."
    ] = None,
    version: Annotated[
        str | None, "New version number, for instance if the archive's own is served already."
    ] = None,
    compare: CompareOption = None,
    python: PythonOption = None,
    timeout: TimeoutOption = 300.0,
    replace: Annotated[bool, "Replace an existing archive."] = False,
) -> Shown:
    """Add digests and golden answers to an archive of torch-model-archiver; its own files stay unchanged.

    A worker loads the archive, which runs its code, and answers the requests. `verify` and `release` expect
    these answers from then on, so look at them first. Without requests the archive gets digests only.

    Example: torchmar adopt old.mar --golden requests/
    """
    from ..adopt import recorded_requests, with_golden
    from ..mar import verify

    if (record is None) != (not recorded):
        raise ArchiveError("give --record N and --from FILE together: the number of requests, and their file")
    if version is not None and (problem := version_problem(version)):
        raise ArchiveError(f"--version {shown(version)}: {problem}")
    archive = verify(mar)
    target = output or store / f"{archive.name}-{version or archive.version}.mar"
    requests = {} if golden is None else _requests_in(golden)
    from_traffic: dict[str, bytes] = {}
    unfit = 0
    if recorded and record:
        from_traffic, unfit = recorded_requests(recorded, archive.name, record)
    with progress(str(mar)) as step:
        adopted = with_golden(
            archive,
            target,
            {**requests, **from_traffic},
            comparator=_comparator(compare),
            version=version,
            leave_out=from_traffic.keys(),
            python=python or sys.executable,
            timeout=timeout,
            force=replace,
            progress=step,
        )
    facts = {**_facts(adopted), **picked(adopted, "needs", "not_asked")}
    return Shown(facts, partial(_print_adopted, archive, adopted, unfit))


def _print_adopted(before: Archive, adopted: Adopted, unfit: int) -> None:
    from ..mar import GOLDEN

    made = adopted.archive
    out.print(f"[bold]{escape(str(made.path))}[/bold]  {size(made.size)}  adopted from {escape(before.path)}")
    was = {file.name: file.sha256 for file in before.files}
    same = sum(was.get(file.name) == file.sha256 for file in made.files)
    added = [file.name for file in made.files if file.name not in was]
    listed = [shown(name) for name in added if not name.startswith(f"{GOLDEN}/")]
    if count := len(added) - len(listed):
        listed.append(f"{GOLDEN}/ ({count} files)")
    lines = [
        f"kept     {same} of {len(was)} files, to the byte",
        f"added    {', '.join(listed)}",
        *(f"golden   {shown(each.name)} → {short_answer(each.expected)}" for each in adopted.golden),
        *(f"left out {shown(name)}: {shown(why, 200)}" for name, why in adopted.left_out.items()),
        *([f"left out {unfit} recorded request{'' if unfit == 1 else 's'} {_UNFIT}"] if unfit else []),
        *(f"needs    {shown(need, 300)}" for need in adopted.needs),
    ]
    print_lines(*(f"  {line}" for line in lines))
    for text in adopted.not_asked:
        out.print(f"  [yellow]unasked[/yellow]  {escape(text)}")


_UNFIT = "with a form of several parts, which no file can hold"


def golden(
    mar: Annotated[Path, "A .mar, or a folder with the same files."],
    add_files: Annotated[
        list[Path] | None, Option("File of a request to add; may be repeated.", typed="--add")
    ] = None,
    record: Annotated[
        bool, "Record the answers to all requests again; this runs the archive's code."
    ] = False,
    compare: CompareOption = None,
    output: Annotated[
        Path | None, "Where to write the changed archive; by default X-golden.mar beside X.mar."
    ] = None,
    python: PythonOption = None,
    timeout: TimeoutOption = 300.0,
    replace: Annotated[bool, "Replace the archive itself, or the one at --output."] = False,
) -> Shown:
    """Show the golden requests of an archive and their expected answers; add some, or record answers again.

    The changed archive is a new file with the same version, and without the signature of the old one.

    Example: torchmar golden old-1.0.mar --add cat.jpg --output new/old-1.0.mar
    """
    from ..adopt import with_golden
    from ..mar import golden_requests, verify

    archive = verify(mar)
    if not (add_files or record or compare):
        requests = golden_requests(archive)
        return Shown(_archive_facts(archive, requests), partial(_show, archive, requests))
    suffix = ".mar" if mar.suffix == ".mar" and not mar.is_dir() else ""
    beside = mar.with_name(f"{mar.name.removesuffix('.mar')}-golden{suffix}")
    target = output or (mar if replace else beside)
    added = {file.name: _read(file) for file in add_files or ()}
    with progress(str(mar)) as step:
        adopted = with_golden(
            archive,
            target,
            added,
            comparator=_comparator(compare),
            again=record,
            python=python or sys.executable,
            timeout=timeout,
            force=replace,
            progress=step,
        )
    return Shown({**_facts(adopted), "changed": adopted.changed}, partial(_print_changed, adopted))


def _print_changed(adopted: Adopted) -> None:
    _show(adopted.archive, adopted.golden, adopted.changed)
    recorded = f"{len(adopted.recorded)} recorded, {len(adopted.changed)} changed"
    out.print(f"[bold]{escape(adopted.archive.path)}[/bold]  {recorded}")


def _show(archive: Archive, requests: Sequence[GoldenRequest], changed: Sequence[str] = ()) -> None:
    if not requests:
        from ..adopt import how_to_ask

        print_lines(how_to_ask(archive))
        return
    rows = [
        (
            shown(one.name),
            one.content_type,
            f"{len(one.body):,}",
            short_answer(one.expected),
            "changed" if one.name in changed else "",
        )
        for one in requests
    ]
    compared = json_text(archive.comparator.as_json())
    print_table(
        f"{shown(archive.name)} {shown(archive.version)}: compared as {compared}",
        ("request", "sent as", "bytes>", "expected", ""),
        rows,
    )


def _archive_facts(archive: Archive, requests: Sequence[GoldenRequest]) -> dict[str, Any]:
    return {
        **picked(archive, *NAMED, "contents_sha256"),
        "compare": archive.comparator.as_json(),
        "golden": [
            {"name": one.name, "type": one.content_type, "bytes": len(one.body), "expected": one.expected}
            for one in requests
        ],
    }


def _facts(adopted: Adopted) -> dict[str, Any]:
    more = picked(adopted, "recorded", "left_out", "check")
    return {**_archive_facts(adopted.archive, adopted.golden), **more}


def _comparator(text: str | None) -> Comparator | None:
    """Return the comparator of --compare: a kind, or the content of a compare.json. Raises ArchiveError."""
    from ..compare import Comparator

    if text is None:
        return None
    try:
        return Comparator.of(json.loads(text) if text.lstrip().startswith("{") else {"kind": text})
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"--compare {text}: {error}") from None


def _requests_in(folder: Path) -> dict[str, bytes]:
    from ..model_files import requests_in

    try:
        return {path.name: path.read_bytes() for path in requests_in(folder)}
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or str(error)
        raise ArchiveError(
            f"--golden {folder}: expected a folder with a file for each request: {what}"
        ) from None


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ArchiveError(f"--add {file}: {error.strerror}") from None
