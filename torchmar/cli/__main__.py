"""`python -m torchmar.cli`."""

from . import main

main()
