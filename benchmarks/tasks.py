"""Measures each model of models/ on this machine; `./scripts/tasks` calls this.

    python -m benchmarks.tasks [--only NAME[,NAME]] [--json FILE] [--markdown FILE]

Each model is built with its real weights into a temporary store, served by its own TorchServe on 127.0.0.1,
sent its golden requests, and loaded by 4 clients; the limit beside it is its handler in a loop of one
process, without a server. For a missing package the report says what to install. Linux is needed. Exit
code 1 if a model that was built failed, or answered wrongly.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from torchmar import mar
from torchmar.answers import parsed
from torchmar.archive import Built, build
from torchmar.client import Server
from torchmar.errors import TorchmarError
from torchmar.files import content_type_of
from torchmar.golden import GoldenRequest, matches
from torchmar.mar import Archive
from torchmar.spec import load_model

from . import archives, limit, machine
from .measure import Phase, load
from .systems import Failed
from .systems.torchserve import OURS, clients, endpoint
from .tables import into_page
from .writable import require_writable

ROOT = Path(__file__).resolve().parent.parent
CLIENTS = 4
WARMUP = 3.0  # seconds
SECONDS = 5.0


@dataclass(frozen=True)
class Model:
    """Holds facts about a model that its model.yaml lacks.

    `request` is the file that is sent under load, and whose answer is shown; `known` is a text that the
    answer must hold, from a source other than the model.
    """

    licence: str
    request: str
    known: str = ""


# If the weights have one licence and their training data another, both are named.
MODELS = {
    "diabetes": Model("BSD-3-Clause (data)", "diabetes/golden/row.json"),
    "digits": Model("BSD-3-Clause (data)", "digits/golden/3.png", '"3"'),
    "efficientnet_lite0": Model(
        "Apache-2.0", "efficientnet_lite0/golden/grace_hopper.jpg", "military uniform"
    ),
    "g2p": Model("Apache-2.0", "g2p/golden/hello.txt", "L OW"),
    "language_id": Model("BSD-3-Clause (data)", "language_id/golden/french.txt", '"fr"'),
    "minilm": Model("Apache-2.0", "minilm/golden/sentence.txt"),
    "minilm_summary": Model("Apache-2.0", "minilm/golden_summary/*"),
    "movies": Model("research only (data)", "movies/golden/known.json"),
    "names_fr": Model("LGPL-2.1+ (data)", "names_fr/golden/kurdish.txt", "kurde central"),
    "nanodet": Model("Apache-2.0", "nanodet/golden/grace_hopper.jpg", '"tie"'),
    "pedestrians": Model("Apache-2.0", "pedestrians/golden/three_frames.json", '"person"'),
    "resnet18": Model("BSD-3-Clause", "efficientnet_lite0/golden/grace_hopper.jpg", "military uniform"),
    "selfie": Model("Apache-2.0", "selfie/golden/astronaut.jpg"),
    "silero": Model("MIT", "silero/golden/circuits.wav", '"start"'),
    "textgenrnn": Model("MIT", "textgenrnn/golden/seeded.json"),
    "vgg16": Model("BSD-3-Clause", "efficientnet_lite0/golden/grace_hopper.jpg", "military uniform"),
    "whisper_base": Model("MIT", "whisper_base/golden/circuits.wav", "All circuits are busy now."),
    "wine": Model("BSD-3-Clause (data)", "wine/golden/class_0.json", '"class_0"'),
}


@dataclass
class Row:
    """Holds the results of one model; a result is None if it was not measured, and `note` says why.

    `answers_right`: a worker alone and the server answer every golden request as the module does, and the
    answer to `request` holds `known`. `parity` is the largest difference of the artifact's outputs from the
    module's, relative where those exceed 1; None for a file that is served as it is. `archive_mb` is in 10^6
    bytes, `rps` and `limit_rps` in requests a second. `torch_free`: the serving worker had not loaded torch's
    library.
    """

    name: str
    task: str
    licence: str
    answers_right: bool | None = None
    parity: float | None = None
    archive_mb: float | None = None
    rps: float | None = None
    limit_rps: float | None = None
    torch_free: bool | None = None
    request: str = ""
    answer: str = ""
    built: bool = False
    note: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the models, and print the table."""
    options = _parser().parse_args(arguments)
    require_writable("--json", options.json)
    require_writable("--markdown", options.markdown)
    rows = []
    for name, file in _chosen(options.only).items():
        print(f"{name}: building", file=sys.stderr)
        rows.append(measure(name, file))
        print(f"{name}: {rows[-1].note or rows[-1].answer}", file=sys.stderr)
    found = report(rows, f"./scripts/tasks {' '.join(arguments or sys.argv[1:])}".strip())
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if options.markdown is not None:
        page = options.markdown.read_text(encoding="utf-8")
        options.markdown.write_text(into_page(page, markdown(found), "scripts/tasks"), encoding="utf-8")
    print(markdown(found), end="")
    return int(any(row.built and (row.note or row.answers_right is False) for row in rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./scripts/tasks", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help=f"some of: {', '.join(MODELS)}")
    parser.add_argument("--json", type=Path, help="write all that was found there")
    parser.add_argument("--markdown", type=Path, help="page to write the table into")
    return parser


def _chosen(only: str) -> dict[str, Path]:
    """Return the model.yaml of each chosen model, by its name."""
    found = {load_model(file).spec.name: file for file in sorted((ROOT / "models").glob("*/*.yaml"))}
    names = only.split(",") if only else list(found)
    unknown = sorted({*names} - found.keys())
    if unknown:
        raise SystemExit(f"tasks: --only {', '.join(unknown)}: expected {', '.join(found)}")
    return {name: found[name] for name in names}


# -- one model ----------------------------------------------------------------------------------


def measure(name: str, file: Path) -> Row:
    """Build a model, serve it, send its requests and load it; the row's note says what failed."""
    source, model = load_model(file), MODELS[name]
    row = Row(name, source.handler.module.rpartition(".")[2], model.licence)
    [request, *_] = sorted((ROOT / "models").glob(model.request))
    row.request = request.name
    with tempfile.TemporaryDirectory(prefix="torchmar-tasks-", ignore_cleanup_errors=True) as temporary:
        store = Path(temporary) / "store"
        try:
            built = build(source, store)
        except TorchmarError as error:
            row.note = _first_line(error)
            return row
        row.built = True
        try:
            _measure(row, built, request, Path(temporary), model.known)
        except (TorchmarError, Failed, RuntimeError) as error:
            row.note = _first_line(error)
    return row


def _measure(row: Row, built: Built, request: Path, folder: Path, known: str) -> None:
    archive = built.archive
    row.archive_mb = round(archive.size / 1e6, 3)
    row.parity = archive.parity["max_abs_error"] if archive.parity else None
    in_a_worker = built.check is not None and all(golden.ok for golden in built.check.golden)
    (folder / "server").mkdir()
    with OURS.running(folder / "server", archive.path.parent) as server, clients(server) as connected:
        connected.management.register(archive.path.name)
        ready = connected.management.wait_until_ready(archive.name, archive.version)
        kind = content_type_of(request.name)
        answer = connected.inference.predict(archive.name, request, content_type=kind)
        row.answer = brief(answer.content)
        served = [_is_right(connected, archive, golden) for golden in mar.golden_requests(archive)]
        said = known in answer.content.decode("utf-8", "replace")
        if served or known:  # else the right answer is not known
            row.answers_right = in_a_worker and all(served) and said
        row.torch_free = not any(_has_torch(worker.pid) for worker in ready.workers)
        to = endpoint(server, archive.name)
        to = replace(to, headers={**to.headers, "Content-Type": kind})
        phase = Phase(f"{CLIENTS} clients", CLIENTS, request, SECONDS, WARMUP, WARMUP)
        result = load(to, phase, folder)
        row.rps = round(result.rps, 2)
        if result.errors:
            row.note = f"{result.errors} of its requests under load failed: {result.kinds}"
    packed = archives.unpacked(archive.path, archive.name, archive.version)
    row.limit_rps = round(limit.measure(packed.folder, request, 1, SECONDS).rps, 2)


def _is_right(server: Server, archive: Archive, request: GoldenRequest) -> bool:
    """Return whether a served model answers a golden request as its archive expects."""
    found = server.inference.predict(archive.name, request.body, content_type=request.content_type)
    return matches(request.expected, found.content, archive.comparator)


def _has_torch(pid: int) -> bool:
    return any("libtorch" in mapped.path for mapped in psutil.Process(pid).memory_maps())


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300]


def brief(body: bytes) -> str:
    """Return an answer in some words: its best row, its text, how many numbers, or a mask's share."""
    content = parsed(body)
    if isinstance(content, bytes):
        return _picture(content)
    if isinstance(content, dict) and list(content) == ["predictions"]:
        content = content["predictions"]
    while isinstance(content, list) and content and isinstance(content[0], list):
        content = content[0]
    if isinstance(content, list) and len(content) > 5 and isinstance(content[0], float | int):
        return f"{len(content)} numbers"
    if isinstance(content, list) and content and all(isinstance(each, dict) for each in content):
        if all("label" in each for each in content):  # the likeliest, or the things that are seen
            scores = [(each["label"], each.get("probability", each.get("score"))) for each in content]
            return ", ".join(f"{label} {score:.2f}" for label, score in scores[:2] if score >= 0.05)
        content = content[0]
    if isinstance(content, dict) and isinstance(content.get("text"), str):
        content = content["text"]
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    return text if len(text) <= 72 else f"{text[:71]}…"


def _picture(content: bytes) -> str:
    """Return a mask's size, and the share of it that is not class 0."""
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as image:
            share = float((np.asarray(image) != 0).mean())
            return f"{image.format} of {image.width} × {image.height}, {share:.1%} of it the person"
    except UnidentifiedImageError:
        return f"{len(content):,} bytes"


# -- the report ---------------------------------------------------------------------------------


def report(rows: Sequence[Row], command: str) -> dict[str, Any]:
    """Return all results, for JSON."""
    return {
        "command": command,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "processor": machine.describe()["cpu"],
        "machine": machine.describe(),
        "versions": machine.versions(),
        "clients": CLIENTS,
        "seconds": SECONDS,
        "tasks": [asdict(row) for row in rows],
    }


_COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "task": lambda row: f"[{row['task']}]({row['task']}.md)",
    "model": lambda row: f"`{row['name']}`",
    "licence": lambda row: str(row["licence"]),
    "MB": lambda row: _number(row["archive_mb"]),
    "parity": lambda row: "as it is" if row["parity"] is None else f"{row['parity']:.1e}",
    "sent": lambda row: str(row["request"]),
    "answered": lambda row: str(row["answer"]),
    "right": lambda row: {True: "yes", False: "**no**", None: "-"}[row["answers_right"]],
    "requests/s": lambda row: _number(row["rps"]),
    "limit": lambda row: _number(row["limit_rps"]),
    "torch in the worker": lambda row: {True: "no", False: "yes", None: "-"}[row["torch_free"]],
}


def markdown(found: dict[str, Any]) -> str:
    """Return the table of docs/tasks/index.md, and why figures are missing."""
    built = [row for row in found["tasks"] if row["built"]]
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    lines = [
        f"`{found['command']}`, {found['date']}, {found['clients']} clients for {found['seconds']:g} s each.",
        "",
        f"- Machine: {machine.one_line(found['machine'])}",
        f"- Versions: {versions}",
        "",
        f"| {' | '.join(_COLUMNS)} |",
        "|" + "---|" * len(_COLUMNS),
    ]
    cells = [[cell(row).replace("|", "\\|") for cell in _COLUMNS.values()] for row in built]
    lines += [f"| {' | '.join(row)} |" for row in cells]
    notes = [f"- `{row['name']}`, {row['task']}: {row['note']}" for row in found["tasks"] if row["note"]]
    if notes:
        lines += ["", "Not measured, or not all:", "", *notes]
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    """Return a number with three digits, or with all digits before the point."""
    if value is None:
        return "-"
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


if __name__ == "__main__":
    sys.exit(main())
