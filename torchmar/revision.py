"""Ask git for the revision of a folder's code."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

Runner = Callable[..., "subprocess.CompletedProcess[str]"]

_TIMEOUT = 60.0  # seconds
# A hook of git's sets them for its own repository, which may be another one.
_OF_A_HOOK = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"}


def revision_of(folder: Path, environment: Mapping[str, str], *, run: Runner = subprocess.run) -> str | None:
    """Return what `git rev-parse HEAD` says in a folder, with "-dirty" where files in it have changed.

    Files that git does not know count as changes, those that it ignores do not. Returns None where git is
    not installed, fails, has no commit, or ignores the whole folder.
    """
    kept = {key: value for key, value in environment.items() if key not in _OF_A_HOOK}

    def git(*arguments: str) -> subprocess.CompletedProcess[str] | None:
        # A repository's own program must not run, and its index is not to be written.
        command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments]
        try:
            return run(
                command,
                env=kept,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=_TIMEOUT,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None

    head, ignored = git("rev-parse", "HEAD"), git("check-ignore", "--quiet", ".")
    status = git("status", "--porcelain", "--", ".")
    if head is None or head.returncode or ignored is None or ignored.returncode == 0:
        return None
    if status is None or status.returncode:
        return None
    return f"{head.stdout.strip()}{'-dirty' if status.stdout.strip() else ''}"
