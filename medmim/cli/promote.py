"""`medmim promote`: a short form of `medmim models promote`."""

from __future__ import annotations

from medmim.cli.models import promote as command

__all__ = ["command"]
