"""What `check_archive` runs: `python -m torchmar.worker FOLDER REPORT`."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from ._check import check_here

if __name__ == "__main__":
    result = json.dumps(asdict(check_here(Path(sys.argv[1]))))
    Path(sys.argv[2]).write_text(result, encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)  # a thread that the handler started must not keep this process
