"""`medmim doctor`: checks of this machine and its tracking server."""
