"""`python -m torchmar`."""

from .cli import main

main()
