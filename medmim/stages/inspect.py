"""`medmim inspect`: write a dataset as one self-contained HTML page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmim import files
from medmim.data.dataset.manifest import Dataset, VolumeRecord, read_dataset
from medmim.data.formats.thumbnails import CLASS_COLOURS, thumbnail
from medmim.data.ingest.context import READ_LIMITS, Progress
from medmim.data.ingest.warning_texts import warning_text
from medmim.data.sandbox.sandbox import Answer, Sandbox
from medmim.operating_system import usable_cores
from medmim.pages import render_page

_TEMPLATE = Path(__file__).with_name("inspect_page.html")
# largest number of volumes, edge of a plane's picture in pixels, JPEG quality
_SIZES = ((300, 112, 75), (1_500, 80, 65), (6_000, 56, 55))
_MAX_PICTURES = 6_000  # about 12 MB; further volumes have statistics only
_MAX_WARNINGS = 20
_ALWAYS = ("subjects", "volumes", "labels")
_COUNTS = {
    **{name: name for name in (*_ALWAYS, "boxes")},
    "targets": "with a class",
    **{name: name for name in ("train", "val", "test")},
    "files_seen": "files seen",
    "files_accepted": "accepted",
    "files_quarantined": "quarantined",
    "files_skipped": "skipped",
}


@dataclass(frozen=True)
class InspectResult:
    """Path and size of the page, and the number of volumes and pictures on it."""

    page: Path
    volumes: int
    pictures: int
    page_bytes: int

    def as_json(self) -> dict[str, Any]:
        """Return the output of `--json`."""
        return {
            "page": str(self.page),
            "volumes": self.volumes,
            "pictures": self.pictures,
            "bytes": self.page_bytes,
        }


def inspect(
    root: Path, *, page: Path | None = None, workers: int | None = None, progress: Progress | None = None
) -> InspectResult:
    """Write the page of a dataset."""
    dataset = read_dataset(root)
    edge, quality = next((size[1:] for size in _SIZES if len(dataset.volumes) <= size[0]), _SIZES[-1][1:])
    names = _class_names(dataset)
    tasks = [
        {
            "path": str(root / volume.image),
            "label": str(root / volume.label) if volume.label else None,
            "codes": _classes(dataset) if volume.label else [*range(1, len(names) + 1)],
            "edge": edge if number < _MAX_PICTURES else 0,
            "quality": quality,
            "boxes": [(names.index(one.name) + 1, one.box) for one in volume.boxes],
        }
        for number, volume in enumerate(dataset.volumes)
    ]

    def on_done(done: int) -> None:
        if progress:
            progress("draw", done, len(tasks))

    with Sandbox(workers or usable_cores(), [thumbnail.__module__]) as sandbox:
        answers = sandbox.run_each(thumbnail, tasks, limits=READ_LIMITS, on_done=on_done) if tasks else []
    target = page or root / "inspect.html"
    content = inspection_page(dataset, answers, edge=edge)
    files.write_text(target, content)
    drawn = sum(bool(answer.value and answer.value["jpeg"]) for answer in answers)
    return InspectResult(target, len(dataset.volumes), drawn, len(content.encode()))


def inspection_page(dataset: Dataset, answers: Sequence[Answer], *, edge: int) -> str:
    """Return the page as HTML; the table of volumes is drawn from JSON by a script in the page."""
    ledger = files.read_jsonl(dataset.root / "ledger.jsonl")
    outcomes = Counter((row["fate"], row["reason"]) for row in ledger)
    rows = [
        {**_row_of(volume), **(answer.value or {"failed": answer.reason})}
        for volume, answer in zip(dataset.volumes, answers, strict=True)
    ]
    return render_page(
        _TEMPLATE,
        info=dataset.info,
        counts=_counts_of(dataset),
        warnings=[
            (len(one.get("splits", ())) > 1, warning_text(one))
            for one in dataset.info.warnings[:_MAX_WARNINGS]
        ],
        outcomes=sorted(outcomes.items(), key=lambda item: (-item[1], item[0])),
        legend=[
            (name, CLASS_COLOURS[number % len(CLASS_COLOURS)])
            for number, name in enumerate(_class_names(dataset))
        ],
        data={"edge": edge, "volumes": rows},
    )


def _classes(dataset: Dataset) -> list[int]:
    return sorted(code for code in dataset.info.label_names if code > 0)


def _class_names(dataset: Dataset) -> list[str]:
    """Return the classes of labels, then those of boxes only; the order of their colours."""
    labels = [dataset.info.label_names[code] for code in _classes(dataset)]
    boxes = sorted({box.name for volume in dataset.volumes for box in volume.boxes})
    return list(dict.fromkeys([*labels, *boxes]))


def _counts_of(dataset: Dataset) -> dict[str, int]:
    """Return counts, patients first; of the others, those that are not 0."""
    given = dataset.info.counts
    counts = {words: given[name] for name, words in _COUNTS.items() if given.get(name) or name in _ALWAYS}
    flags = {
        "repaired": sum(volume.verdict == "repaired" for volume in dataset.volumes),
        "face possible": sum("recognizable_face" in volume.flags for volume in dataset.volumes),
    }
    return counts | {name: count for name, count in flags.items() if count}


def _row_of(volume: VolumeRecord) -> dict[str, Any]:
    """Return the columns of one row, without any text of the source."""
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
