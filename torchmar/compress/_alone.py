"""Load models in a process of their own and run one batch: the memory that it takes goes to stdout."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ExportError
from ..handler_code import handlers
from ..measure.memory import peak_rss_bytes

_LONGEST = 300.0  # seconds


def peak_mb(
    models: Mapping[str, Path], batches: Mapping[str, Mapping[str, Any]], folder: Path
) -> float | None:
    """Return the peak resident set of a process that runs each part's batch, in MB (10^6 bytes).

    None where the system does not tell it. Raises ExportError if the process fails.
    """
    import numpy as np

    words = []
    for part, batch in batches.items():
        file = folder / f"{part}.batch.npz"
        np.savez(file, **batch)
        words += [str(models[part]), str(file)]
    command = [sys.executable, "-m", __name__, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ExportError(f"a process that loads {', '.join(map(str, models.values()))} ends with: {last}")
    peak = json.loads(done.stdout)
    return None if peak is None else peak / 1e6


def main(words: Sequence[str]) -> None:
    """Run each model on the batch after it, and print this process's peak."""
    import numpy as np

    opened = []
    for model, batch in zip(words[::2], words[1::2], strict=True):
        opened.append(handlers("runtimes").OnnxModel(Path(model), 1, None, share=False))
        with np.load(batch) as arrays:
            opened[-1](dict(arrays))
    sys.stdout.write(json.dumps(peak_rss_bytes()) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
