"""`medmim verify`: is a dataset still what was written, file by file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medmim.data.dataset.integrity import Problem, problems_of
from medmim.data.dataset.manifest import read_dataset
from medmim.data.ingest.context import Progress
from medmim.errors import DataError


@dataclass(frozen=True)
class VerifyResult:
    """What was looked at, and what is wrong with it."""

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
    """Hash every file of a dataset and compare all counts.

    Raises:
        DataError: if the folder is no dataset, or so damaged that its volumes are not known.
    """
    dataset = read_dataset(root)

    def tell(done: int, total: int) -> None:
        if progress:
            progress("hash", done, total)

    found = tuple(problems_of(dataset, tell))
    return VerifyResult(root, dataset.info.content_hash, dataset.info.counts, dataset.info.warnings, found)


def refuse_damaged(result: VerifyResult) -> None:
    """Raise if anything is wrong.

    Raises:
        DataError: with the number of problems and what to do.
    """
    if result.problems:
        raise DataError(
            f"dataset at '{result.dataset}' is not what was written: {len(result.problems)} problems, the "
            "first is "
            f"{result.problems[0]}; run `medmim ingest` on its source again, which writes such files anew",
            reason="damaged_dataset",
        )
