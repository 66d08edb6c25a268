"""`medmim compare`: fine-tuning runs become one table, a verdict and a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmim.tracking.comparison import Comparison, compare, find_runs
from medmim.tracking.report import write_report
from medmim.tracking.store import Store


@dataclass(frozen=True)
class Compared:
    """A comparison and where its report lies."""

    comparison: Comparison
    report: Path

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {**self.comparison.as_json(), "report": str(self.report)}


def compare_runs(run_ids: Sequence[str], *, home: Path) -> Compared:
    """Compare the named runs, or all that are comparable with the newest.

    Raises:
        RunError: if there is nothing to compare.
    """
    runs = find_runs(Store(home), run_ids)
    comparison = compare(runs)
    return Compared(comparison, write_report(home / "reports", comparison, runs))
