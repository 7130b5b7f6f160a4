"""``python -m equifuse``, also for ``torchrun -m equifuse train ...``."""

from equifuse.cli import main

main()
