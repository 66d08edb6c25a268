"""The logging interface of training, the smallest that a recorder of runs implements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable


@runtime_checkable
class Log(Protocol):
    """Receives metrics, tags and pictures while training runs."""

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Log metrics at a step."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags of the whole run."""

    def picture(self, key: str, png: bytes, *, step: int) -> None:
        """Log a PNG picture at a step; `key` is the same throughout the run."""
