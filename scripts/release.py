#!/usr/bin/env python3
"""Release an archive: `python scripts/release.py X.mar [--dry-run]`; the same as `torchmar release`."""

import sys

try:
    from torchmar.cli import main
except ModuleNotFoundError as error:
    sys.exit(f"{error}: run ./scripts/setup first, then .venv/bin/python scripts/release.py")

if __name__ == "__main__":
    sys.argv.insert(1, "release")
    main()
