"""Measures the code: lines and files of each folder, and how much one has to read to follow a release.

    ./scripts/size [--json FILE]

A room is a folder of torchmar/, or handlers/; a line is any line of a Python file. A road is a run with
servers in memory. For each road the functions that are entered are counted, their files, and how often a
reader who reads each function at its first call changes the file: within release/, and once more with all
that release/ calls in torchmar, such as zips, digests, statistics and the client.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, cast

ROOT = Path(__file__).resolve().parent.parent
_CODE = ROOT / "torchmar"


def rooms() -> list[dict[str, Any]]:
    """Return each room, largest first: its files, its lines, and the lines of its longest function."""
    folders = {path.name: [path] for path in _CODE.iterdir() if (path / "__init__.py").exists()}
    alone = {"torchmar/*.py": list(_CODE.glob("*.py")), "handlers": [ROOT / "handlers"]}
    found = []
    for name, paths in {**folders, **alone}.items():
        files = [
            file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*.py")))
        ]
        lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
        longest = max(map(_longest, files), default=0)
        found.append({"name": name, "files": len(files), "lines": lines, "max_function": longest})
    return sorted(found, key=lambda room: -room["lines"])


def _longest(file: Path) -> int:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return max(((node.end_lineno or 0) - node.lineno + 1 for node in functions), default=0)


# -- roads --------------------------------------------------------------------------------------


@contextmanager
def _followed(entered: list[tuple[str, str]]) -> Iterator[None]:
    """Note each function of torchmar that is entered, also in threads that start meanwhile."""
    import threading

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(str(_CODE)):
            one = (str(Path(code.co_filename).relative_to(ROOT)), f"{code.co_name}:{code.co_firstlineno}")
            if not code.co_name.startswith("<") and one not in known:
                known.add(one)
                entered.append(one)

    known: set[tuple[str, str]] = set()
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def roads() -> list[dict[str, Any]]:
    """Follow a release, a rollback, and the rollback of a release that was killed after `register`."""
    from tests.live.servers import make_stranger
    from tests.unit.servers_in_memory import Clock, serving, unfinished
    from torchmar import mar
    from torchmar.release import Fleet, Host, Options, release, rollback

    options = Options(watch=0, longest=0.0, promote_inconclusive=True, load=False)
    found = []
    for name in ("release", "rollback", "undo"):
        entered: list[tuple[str, str]] = []
        with tempfile.TemporaryDirectory() as place:
            folder, clock, fake = Path(place), Clock(), serving("1.0", "1.0")
            (folder / "store").mkdir()
            host = Host("local", cast("Any", fake), store=folder / "store")
            fleet = Fleet((host,), folder / "releases", clock=clock, sleep=clock.sleep)
            archive = mar.verify(make_stranger(folder, "m", "", version="2.0"))
            if name == "rollback":
                release(fleet, archive, options)
            elif name == "undo":
                unfinished(fleet, "copy", "register")
                fake.register("m-2.0.mar", initial_workers=1)
            with _followed(entered):
                done = release(fleet, archive, options) if name == "release" else rollback(fleet, "m")
            assert done.outcome == {"release": "promoted", "rollback": "rolled back", "undo": "undone"}[name]
        own = [file for file, _ in entered if file.startswith("torchmar/release/")]
        found.append({"name": name, **_counts(own), "all": _counts([file for file, _ in entered])})
    return found


def _counts(files: list[str]) -> dict[str, int]:
    """Count functions, files and changes of file; `files` has the file of each function that was entered."""
    changes = sum(one != other for one, other in itertools.pairwise(files))
    return {"files": len(set(files)), "functions": len(files), "file_changes": changes}


def main() -> None:
    """Print both tables, and write them as JSON on request."""
    parser = argparse.ArgumentParser(prog="scripts/size", description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write rooms and roads there")
    options = parser.parse_args()
    content = {"rooms": rooms(), "roads": roads()}
    print("room                  lines  files  longest function")
    for room in content["rooms"]:
        print(f"{room['name']:<20} {room['lines']:>6,} {room['files']:>6} {room['max_function']:>6}")
    total = [sum(room[key] for room in content["rooms"]) for key in ("lines", "files")]
    print(f"{'all':<20} {total[0]:>6,} {total[1]:>6}\n")
    print("road           files  functions  changes of file")
    for road in content["roads"]:
        for where, counts in (("", road), ("  with all", road["all"])):
            files, functions, changes = (counts[key] for key in ("files", "functions", "file_changes"))
            print(f"{where or road['name']:<14} {files:>5} {functions:>10} {changes:>8}")
    if options.json:
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
