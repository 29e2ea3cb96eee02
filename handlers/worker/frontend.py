"""Read the configuration of the Java frontend that started this worker, for limits that kill workers."""

from __future__ import annotations

import os
import re
from pathlib import Path

DEFAULT_MAX_RESPONSE_SIZE = 6_553_500  # TorchServe's own default

_SETTING = re.compile(r"^[ \t\f]*max_response_size[ \t\f]*[=: \t\f][ \t\f]*(\d+)\s*$", re.MULTILINE)


def max_response_size(process: Path | None = None) -> int:
    """Return the most bytes of one answer.

    The frontend does not pass this to its workers, so this reads its configuration if possible: the file that
    it was started with, or config.properties in its folder. `process` is its folder in /proc.
    """
    process = process or Path(f"/proc/{os.getppid()}")
    try:
        arguments = (process / "cmdline").read_bytes().decode(errors="surrogateescape").split("\0")
        if "org.pytorch.serve.ModelServer" not in arguments:
            return DEFAULT_MAX_RESPONSE_SIZE  # a test, or another server
        named = arguments[arguments.index("-f") + 1] if "-f" in arguments[:-1] else "config.properties"
        text = ((process / "cwd").readlink() / named).read_text(encoding="latin-1")
    except (OSError, ValueError):
        return DEFAULT_MAX_RESPONSE_SIZE
    found = _SETTING.findall(text)
    return int(found[-1]) if found else DEFAULT_MAX_RESPONSE_SIZE
