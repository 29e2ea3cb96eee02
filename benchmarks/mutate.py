"""Whether unit tests notice small mistakes: each of tests/mutations.py is made in a copy of the checkout.

    ./scripts/mutate [--only NAME] [--json FILE]

The tests that are to notice one must pass without it, or that they fail would say nothing. A mistake by which
they run for more than two minutes is noticed, too: it hangs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.mutations import ALL, Mutation

ROOT = Path(__file__).resolve().parent.parent
_LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "model_store", "logs")
_LONGEST = 120.0  # seconds
_PYTEST = (sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider")


def told_by(copy: Path, tests: Sequence[str], longest: float | None = None) -> str:
    """Whether these tests of a copy are `passed` or `failed`, or `hang`; else what pytest said."""
    nodes = [f"tests/unit/{test}" for test in dict.fromkeys(tests)]
    try:
        done = subprocess.run(
            [*_PYTEST, *nodes], cwd=copy, capture_output=True, text=True, timeout=longest, check=False
        )
    except subprocess.TimeoutExpired:
        return "hang"
    return {0: "passed", 1: "failed"}.get(done.returncode, done.stdout[-2000:] + done.stderr[-2000:])


def outcome(copy: Path, mutation: Mutation) -> str:
    """`killed`, `survived`, or why neither can be told."""
    file = copy / mutation.file
    code = file.read_text(encoding="utf-8")
    if code.count(mutation.old) != 1:
        return f"its text occurs {code.count(mutation.old)} times in {mutation.file}"
    file.write_text(code.replace(mutation.old, mutation.new), encoding="utf-8")
    try:
        found = told_by(copy, mutation.tests, _LONGEST)
    finally:
        file.write_text(code, encoding="utf-8")
    return {"failed": "killed", "hang": "killed", "passed": "survived"}.get(found, found)


def main() -> int:
    """Print what became of each, and write it as JSON where asked; 1 where one was not noticed."""
    parser = argparse.ArgumentParser(prog="scripts/mutate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", metavar="NAME", help="one mutation, or all with this in their name")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the outcomes there")
    options = parser.parse_args()
    mutations = [one for one in ALL if options.only is None or options.only in one.name]
    if not mutations:
        parser.error(f"no mutation is called {options.only!r}")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "checkout"
        shutil.copytree(ROOT, copy, ignore=_LEFT_OUT)
        before = told_by(copy, [test for one in mutations for test in one.tests])
        if before != "passed":
            print(f"without any mutation the tests have {before}", file=sys.stderr)
            return 1
        for one in mutations:
            begin = time.monotonic()
            told, seconds = outcome(copy, one), time.monotonic() - begin
            print(f"{told:<9} {seconds:5.1f} s  {one.file}: {one.name}", flush=True)
            found.append({"name": one.name, "file": one.file, "outcome": told, "seconds": round(seconds, 1)})
    killed = sum(one["outcome"] == "killed" for one in found)
    print(f"\n{killed} of {len(found)} killed")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0 if killed == len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
