#!/usr/bin/env python3
"""Build archives: `python scripts/archive.py models/NAME… [--store DIR]`; the same as `torchmar archive`."""

import sys

try:
    from torchmar.cli import main
except ModuleNotFoundError as error:
    sys.exit(f"{error}: run ./scripts/setup first, then .venv/bin/python scripts/archive.py")

if __name__ == "__main__":
    sys.argv.insert(1, "archive")
    main()
