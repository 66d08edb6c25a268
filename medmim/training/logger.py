"""Where training writes to: the smallest interface that a recorder of runs must have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable


@runtime_checkable
class Log(Protocol):
    """Receives numbers and pictures while training runs."""

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Take numbers at a step."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Take words about the run as a whole."""

    def picture(self, key: str, png: bytes, *, step: int) -> None:
        """Take a PNG picture at a step; `key` is stable over the run."""
