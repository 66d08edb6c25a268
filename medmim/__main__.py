"""`python -m medmim` is `medmim`."""

from medmim.cli import main

main()
