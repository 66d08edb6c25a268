"""Where ingestion works: keys, the ledger, a staging folder, a sandbox, and the volumes made so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmim.data.ledger import Ledger
from medmim.data.manifest import Volume
from medmim.data.privacy import Keys
from medmim.data.sandbox import Answer, Limits, Sandbox, Task

Progress = Callable[[str, int, int], None]
READ_LIMITS = Limits(memory_bytes=8 << 30, cpu_s=300, wall_s=600.0)


@dataclass(frozen=True)
class Made:
    """A volume in the staging folder, not yet in the dataset.

    `name` is what a label file of it is called (series UID or the image's stem): the source's own text, never
    written. `classes` are the numbers in its label.
    """

    volume: Volume
    name: str
    staged: Path
    staged_label: Path | None = None
    classes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Bench:
    """What every step of ingestion needs."""

    keys: Keys
    ledger: Ledger
    staging: Path
    sandbox: Sandbox
    progress: Progress | None = None

    def each(
        self, phase: str, function: Callable[..., Any], tasks: Sequence[Task], *, limits: Limits | None = None
    ) -> list[Answer]:
        """Run a function for each task in sandboxes and report progress under the name `phase`."""
        if not tasks:
            return []

        def tell(done: int) -> None:
            if self.progress:
                self.progress(phase, done, len(tasks))

        return self.sandbox.run_each(function, tasks, limits=limits, on_done=tell)

    def staged(self, name: str) -> Path:
        """Return a path in the staging folder."""
        return self.staging / name


def place_of(kind: str, subject: str, study: str, identifier: str) -> str:
    """Return where a volume or label lies below the dataset folder."""
    return f"{kind}/{subject}/{study}/{identifier}.nii.gz"


def stem_of(path: Path) -> str:
    """Return a NIfTI file's name without .nii or .nii.gz."""
    return path.name.removesuffix(".gz").removesuffix(".nii")
