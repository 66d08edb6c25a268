"""`medmim verify`: compare every file of a dataset with its recorded hash."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medmim.data.dataset.duplicate_patients import find_missing_hashes
from medmim.data.dataset.integrity import Problem, find_problems
from medmim.data.dataset.manifest import read_dataset
from medmim.data.ingest.context import Progress
from medmim.errors import DataError


@dataclass(frozen=True)
class VerifyResult:
    """Summary of a dataset and the problems found in it."""

    dataset: Path
    content_hash: str
    counts: dict[str, int]
    warnings: tuple[dict[str, Any], ...]
    problems: tuple[Problem, ...]

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "dataset": str(self.dataset),
            "ok": not self.problems,
            "content_hash": self.content_hash,
            "volumes": self.counts.get("volumes", 0),
            "problems": [asdict(problem) for problem in self.problems],
            "warnings": list(self.warnings),
        }


def verify(root: Path, *, progress: Progress | None = None) -> VerifyResult:
    """Hash every file of a dataset and compare all counts."""
    dataset = read_dataset(root)
    warnings = (*dataset.info.warnings, *find_missing_hashes(dataset.volumes))
    on_file = None if progress is None else functools.partial(progress, "hash")
    problems = tuple(find_problems(dataset, on_file))
    return VerifyResult(root, dataset.info.content_hash, dataset.info.counts, warnings, problems)


def raise_if_damaged(result: VerifyResult) -> None:
    """Raise if the result lists problems."""
    if result.problems:
        raise DataError(
            f"dataset at '{result.dataset}' is damaged: expected no problems, got {len(result.problems)}, "
            f"the first is {result.problems[0]}; run `medmim ingest` on its source again to rewrite these "
            "files",
            reason="damaged_dataset",
        )
