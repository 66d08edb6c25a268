"""`python -m medmim` is `medmim`."""

from medmim.cli import main

if __name__ == "__main__":  # data loader workers that are spawned import this again
    main()
