"""Checks that unit tests notice small mistakes: each of tests/mutations.py is made in a copy.

    ./scripts/mutate [--only NAME] [--json FILE]

The tests for a mistake must pass without it, or their failure would prove nothing. A mistake that makes them
run for more than two minutes counts as noticed, too: it hangs.
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


def result_of(copy: Path, tests: Sequence[str], longest: float | None = None) -> str:
    """Return `passed`, `failed` or `hang` for the tests of a copy; otherwise the output of pytest."""
    nodes = [f"tests/unit/{test}" for test in dict.fromkeys(tests)]
    try:
        done = subprocess.run(
            [*_PYTEST, *nodes], cwd=copy, capture_output=True, text=True, timeout=longest, check=False
        )
    except subprocess.TimeoutExpired:
        return "hang"
    return {0: "passed", 1: "failed"}.get(done.returncode, done.stdout[-2000:] + done.stderr[-2000:])


def outcome(copy: Path, mutation: Mutation) -> str:
    """Return `killed` or `survived`, or why neither is known."""
    file = copy / mutation.file
    code = file.read_text(encoding="utf-8")
    if code.count(mutation.old) != 1:
        return f"its text occurs {code.count(mutation.old)} times in {mutation.file}"
    file.write_text(code.replace(mutation.old, mutation.new), encoding="utf-8")
    try:
        found = result_of(copy, mutation.tests, _LONGEST)
    finally:
        file.write_text(code, encoding="utf-8")
    return {"failed": "killed", "hang": "killed", "passed": "survived"}.get(found, found)


def main() -> int:
    """Print each outcome, and write them as JSON on request; return 1 if a mistake was not noticed."""
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
        before = result_of(copy, [test for one in mutations for test in one.tests])
        if before != "passed":
            print(f"without any mutation the tests have {before}", file=sys.stderr)
            return 1
        for one in mutations:
            begin = time.monotonic()
            result, seconds = outcome(copy, one), time.monotonic() - begin
            print(f"{result:<9} {seconds:5.1f} s  {one.file}: {one.name}", flush=True)
            found.append(
                {"name": one.name, "file": one.file, "outcome": result, "seconds": round(seconds, 1)}
            )
    killed = sum(one["outcome"] == "killed" for one in found)
    print(f"\n{killed} of {len(found)} killed")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0 if killed == len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
