"""Add golden answers to an existing archive: a stranger's in normal form, or torchmar's own with more.

The handler's current answers in a worker become the expected ones. All other files stay the same to the byte;
torchmar's own, in MAR-INF/, are added or rewritten.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import pack
from .answers import shown
from .compare import Comparator
from .errors import ArchiveError, ArchiveExists
from .export import Progress
from .golden import GoldenRequest, answer_of, rounded
from .handler import STOCK_NAMES
from .lineage import Lineage
from .manifest import SHIPPED
from .mar import COMPARE, GOLDEN, GOLDEN_ANSWERS, LINEAGE, MANIFEST, MAX_METADATA, Archive, golden_requests
from .measure.recorded import read_recorded
from .python_files import imported
from .worker import NOTHING_ASKED, Check, check_unpacked, unpacked

_ANSWERS = Path(GOLDEN_ANSWERS).name
# Modules of ts/torch_handler that import captum, which torchserve does not install.
_WITH_CAPTUM = {*STOCK_NAMES, "dali_image_classifier", "densenet_handler", "text_handler", "vision_handler"}
_LARGEST_SOURCE = 1 << 20  # bytes; a larger file is data


@dataclass(frozen=True)
class Adopted:
    """An archive with golden answers.

    `recorded` are the requests that were answered again, and `changed` those that had another answer before.
    `left_out` are those that did not succeed, with the reason. `check` is the result of a second run over all
    requests. `imports` are the packages that its code imports, besides the standard library.
    """

    archive: Archive
    golden: tuple[GoldenRequest, ...]
    recorded: tuple[str, ...]
    changed: tuple[str, ...]
    left_out: Mapping[str, str]
    check: Check
    imports: tuple[str, ...]

    @property
    def needs(self) -> list[str]:
        """Return what the server's Python must have, in words."""
        model = self.archive.manifest["model"]
        found = []
        if model.get("handler") in SHIPPED:
            found.append(f"TorchServe's own handler {model['handler']}")
        if self.imports:
            found.append(f"the imports of its code: {', '.join(self.imports)}")
        if (file := model.get("requirementsFile")) is not None:
            found.append(f"{file}: TorchServe installs it only where install_py_dep_per_model=true")
        return found + [caveat for caveat in self.check.caveats if "torch" in caveat]

    @property
    def not_asked(self) -> list[str]:
        """Return what the golden requests leave open, in words."""
        if not self.golden:
            return [how_to_ask(self.archive)]
        batch = self.archive.config.get("batchSize")
        batches = f"whole batches: each request was sent alone, and a batch has up to {batch}"
        return [
            "whether the answers are right: they are today's answers",
            *([batches] if isinstance(batch, int) and batch > 1 else []),
            "the answers to bad requests",
        ]


def how_to_ask(archive: Archive) -> str:
    """Return what to do about an archive without golden requests, in words."""
    return f"{NOTHING_ASKED}; `torchmar golden {archive.path} --add FILE` adds some"


def with_golden(
    archive: Archive,
    target: Path,
    requests: Mapping[str, bytes],
    *,
    comparator: Comparator | None = None,
    version: str | None = None,
    again: bool = False,
    leave_out: Collection[str] = (),
    python: str = sys.executable,
    timeout: float = 300.0,
    force: bool = False,
    progress: Progress = lambda _: None,
) -> Adopted:
    """Record a verified archive's answers to `requests`, by file name, and pack it with them at `target`.

    Existing requests keep their answers, unless `again` records all of them. Requests to `leave_out` are
    dropped if they fail, as long as others succeed. `comparator` compares the answers; its default is the
    archive's own. The archive gets `version`; None keeps its own. `python` and `timeout` (seconds) are those
    of check_archive; this runs the archive's code.

    Raises ArchiveExists; ArchiveError, also if the second answers differ; WorkerLoadError.
    """
    if os.path.lexists(target) and not force:
        raise ArchiveExists(f"{target} is there already: name another with --output, or give --replace")
    chosen = comparator or archive.comparator
    had = {one.name: one for one in golden_requests(archive)}
    if wrong := sorted(name for name in requests if name == _ANSWERS or name in had):
        why = (
            "the archive needs that name itself"
            if _ANSWERS in wrong
            else "the archive has a request with that name"
        )
        raise ArchiveError(f"golden request {wrong[0]}: rename the file: {why}")
    bodies = {**{name: one.body for name, one in had.items()}, **requests}
    if large := sorted(name for name, body in requests.items() if len(body) > MAX_METADATA):
        raise ArchiveError(f"golden request {large[0]}: choose one of at most {MAX_METADATA:,} bytes")
    expected = {} if again else {name: one.expected for name, one in had.items() if one.expected is not None}
    asked = [name for name in bodies if name in requests or again]
    with unpacked(archive.path, "torchmar-adopt-") as folder:
        left_out: dict[str, str] = {}
        answered: dict[str, Any] = {}
        if asked:
            progress("recording its answers in a worker")
            _lay_out(folder, {name: bodies[name] for name in asked}, {}, chosen)
            check = check_unpacked(folder, archive.path, record=True, python=python, timeout=timeout)
            failed = {each.name: str(each.found) for each in check.golden if not each.ok}
            may_fail = failed and failed.keys() <= set(leave_out) and len(failed) < len(check.golden)
            if not check.ok and not may_fail:
                check.raise_for_failure()
            _require_all_answered(check, len(asked))
            left_out = failed
            answered = {each.name: each.found for each in check.golden if each.ok}
            expected |= {name: rounded(answer, chosen) for name, answer in answered.items()}
        bodies = {name: body for name, body in bodies.items() if name not in left_out}
        recorded = tuple(name for name in asked if name in bodies)
        _require_comparable(chosen, {name: expected[name] for name in recorded})
        progress("asking it once more" if bodies else "loading it in a worker")
        _lay_out(folder, bodies, expected, chosen)
        check = check_unpacked(folder, archive.path, python=python, timeout=timeout)
        _require_same(check, answered, chosen)
        check.raise_for_failure()
        _require_all_answered(check, len(expected))
        imports = _imports(folder, str(archive.manifest["model"].get("handler")))
    progress("packing")
    made = _packed(archive, target, bodies, expected, chosen, version, force=force)
    golden = tuple(GoldenRequest(name, body, expected.get(name)) for name, body in bodies.items())
    changed = tuple(
        name for name in recorded if name in had and had[name].expected not in (None, expected[name])
    )
    return Adopted(made, golden, recorded, changed, left_out, check, imports)


def _packed(
    archive: Archive,
    target: Path,
    bodies: Mapping[str, bytes],
    expected: Mapping[str, Any],
    how: Comparator,
    version: str | None,
    *,
    force: bool,
) -> Archive:
    changes: dict[str, bytes | Path | None] = {f"{GOLDEN}/{name}": body for name, body in bodies.items()}
    changes[COMPARE] = _as_json(how.as_json())
    if version not in {None, archive.version}:
        # Data, seed and metrics stay: it is the same model.
        lineage = replace(archive.lineage or Lineage(), parent=archive.as_parent())
        changes[LINEAGE] = lineage.as_bytes()
    if version is not None:
        changes[MANIFEST] = pack.manifest_of(archive, version)
    if expected:
        changes[GOLDEN_ANSWERS] = _as_json(expected)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArchiveError(f"{target.parent}: no folder to put archives in: {error.strerror}") from error
    return pack.variant(archive, target, changes, force=force)


def _require_same(check: Check, recorded: Mapping[str, Any], comparator: Comparator) -> None:
    """Raise ArchiveError if the answers to golden requests differ from the recorded ones."""
    changed = "\n".join(check.changed(recorded, comparator).values())
    if changed or (not check.ok and check.golden):
        remedy = "have it answer the same each time (a seed), leave the request out, or say what may differ: "
        raise ArchiveError(f"{remedy}--compare KIND\n{check.reason or changed}")


def _lay_out(folder: Path, bodies: Mapping[str, bytes], expected: Mapping[str, Any], how: Comparator) -> None:
    """Give an unpacked archive exactly these golden requests.

    Replaces a link in it, and does not follow it.
    """
    golden, compare = folder / GOLDEN, folder / COMPARE
    shutil.rmtree(golden, ignore_errors=True)
    compare.unlink(missing_ok=True)
    compare.write_bytes(_as_json(how.as_json()))
    if bodies:
        for name, body in bodies.items():
            (golden / name).parent.mkdir(parents=True, exist_ok=True)
            (golden / name).write_bytes(body)
    if expected:
        (folder / GOLDEN_ANSWERS).write_bytes(_as_json(expected))


def _as_json(content: Any) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _require_all_answered(check: Check, count: int) -> None:
    """Raise ArchiveError if a worker skipped requests, because it lacks what the handler needs."""
    if check.ok and len(check.golden) < count:
        raise ArchiveError(f"{check.path}: its answers cannot be recorded: {'; '.join(check.caveats)}")


def _require_comparable(comparator: Comparator, expected: Mapping[str, Any]) -> None:
    """Raise ArchiveError if a comparator is for another kind of answer, so that everything would differ."""
    for name, value in expected.items():
        answer = answer_of(value)
        if not comparator.suits(answer):
            found = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            raise ArchiveError(
                f"choose another --compare than {comparator.kind}, which cannot compare the answer to "
                f"{name}: {shown(found, 120)}"
            )


def _imports(folder: Path, handler: str) -> tuple[str, ...]:
    """Return the top-level modules that an archive's code imports, without its own, Python's and `ts`.

    The check reports whether a worker loads torch: an import in a function may never run.
    """
    files = [path for path in sorted(folder.rglob("*.py")) if path.stat().st_size <= _LARGEST_SOURCE]
    own = {part for path in files for part in path.relative_to(folder).with_suffix("").parts}
    found: set[str] = set()
    for path in files:
        with suppress(OSError, SyntaxError, ValueError, RecursionError, MemoryError):
            found |= imported(path)
    tops = {name.partition(".")[0] for name in found}
    if handler in _WITH_CAPTUM or any(name.rpartition(".")[2] in _WITH_CAPTUM for name in found):
        tops.add("captum")
    return tuple(sorted(tops - own - {"ts", "torch", *sys.stdlib_module_names}))


def recorded_requests(sources: Sequence[Path], model: str, count: int) -> tuple[dict[str, bytes], int]:
    """The first `count` recorded requests that differ, by a name that says what each is sent as; how many no
    file can say: forms of several parts.
    """
    found: dict[tuple[bytes, str], str] = {}
    unfit = 0
    for request in read_recorded(list(sources), model):
        if len(found) == count:
            break
        suffix = _suffix(request.content_type)
        if suffix is None:
            unfit += 1
        else:
            found.setdefault((request.body, suffix), f"recorded-{len(found) + 1:03}{suffix}")
    return {name: body for (body, _), name in found.items()}, unfit


def _suffix(content_type: str) -> str | None:
    """What a golden request's name ends in that a worker is given as it was given this one."""
    if content_type.startswith(("multipart/", "application/x-www-form-urlencoded")):
        return None
    if content_type == "application/json":
        return ".json"
    return ".txt" if content_type.startswith("text") else ".bin"
