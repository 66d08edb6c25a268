"""`medmim inspect`: a dataset as one HTML page that needs nothing beside it."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmim import __version__, files
from medmim.data.dataset.manifest import Dataset, VolumeRecord, read_dataset
from medmim.data.formats.thumbnails import thumbnail
from medmim.data.ingest.context import READ_LIMITS, Progress
from medmim.data.sandbox.sandbox import Answer, Sandbox

_PAGE = Path(__file__).with_name("inspect_page.html")
_PLACE = "/*DATA*/null"
# edge in pixels and JPEG quality of a plane's picture, by the number of volumes that they still suit
_SIZES = ((300, 112, 75), (1_500, 80, 65), (6_000, 56, 55))
_MOST_PICTURES = 6_000  # about 12 MB; further volumes get numbers only


@dataclass(frozen=True)
class InspectResult:
    """The page, and what it shows."""

    page: Path
    volumes: int
    pictures: int
    page_bytes: int

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "page": str(self.page),
            "volumes": self.volumes,
            "pictures": self.pictures,
            "bytes": self.page_bytes,
        }


def inspect(
    root: Path, *, page: Path | None = None, workers: int | None = None, progress: Progress | None = None
) -> InspectResult:
    """Write the page of a dataset.

    Args:
        root: dataset folder.
        page: the HTML file; `inspect.html` in the dataset folder without it.
        workers: processes at one time; all processors without it.
        progress: told how many volumes are drawn.

    Raises:
        DataError: if the folder is no dataset.
    """
    dataset = read_dataset(root)
    edge, quality = next((size[1:] for size in _SIZES if len(dataset.volumes) <= size[0]), _SIZES[-1][1:])
    tasks = [
        {
            "path": str(root / volume.image),
            "label": str(root / volume.label) if volume.label else None,
            "edge": edge if place < _MOST_PICTURES else 0,
            "quality": quality,
        }
        for place, volume in enumerate(dataset.volumes)
    ]

    def tell(done: int) -> None:
        if progress:
            progress("draw", done, len(tasks))

    count = workers or len(os.sched_getaffinity(0))
    with Sandbox(count, [thumbnail.__module__]) as sandbox:
        answers = sandbox.run_each(thumbnail, tasks, limits=READ_LIMITS, on_done=tell) if tasks else []
    target = page or root / "inspect.html"
    content = page_of(dataset, answers, edge=edge)
    files.write_text(target, content)
    drawn = sum(bool(answer.value and answer.value["jpeg"]) for answer in answers)
    return InspectResult(target, len(dataset.volumes), drawn, len(content.encode()))


def page_of(dataset: Dataset, answers: list[Answer], *, edge: int) -> str:
    """Return the page: a template of our own with all data as JSON in it."""
    content = {
        "info": dataset.info.model_dump(mode="json"),
        "version": __version__,
        "edge": edge,
        "fates": _fates(dataset),
        "volumes": [
            {**_facts(volume), **(answer.value or {"failed": answer.reason})}
            for volume, answer in zip(dataset.volumes, answers, strict=True)
        ],
    }
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    # inside a script element only these could end it or start another
    safe = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return _PAGE.read_text(encoding="utf-8").replace(_PLACE, safe)


def _facts(volume: VolumeRecord) -> dict[str, Any]:
    """Return the columns of one row: keys and numbers that the manifest holds, no text of the source."""
    return {
        "id": volume.id,
        "subject": volume.subject,
        "split": volume.split or "",
        "modality": volume.modality,
        "shape": volume.shape,
        "spacing": [round(length, 3) for length in volume.spacing_mm],
        "orientation": volume.orientation,
        "verdict": volume.verdict,
        "repairs": volume.repairs,
        "tokens": volume.tokens,
        "label": volume.label is not None,
        "target": volume.target or "",
        "boxes": len(volume.boxes),
        "flags": volume.flags,
    }


def _fates(dataset: Dataset) -> list[dict[str, Any]]:
    """Return how many files have each fate and reason, the commonest first."""
    rows = files.read_jsonl(dataset.root / "ledger.jsonl")
    counts = Counter((row["fate"], row["reason"]) for row in rows)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [{"fate": fate, "reason": reason, "files": count} for (fate, reason), count in ranked]
