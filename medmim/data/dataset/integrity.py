"""Integrity of a dataset folder: file hashes, counts and splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from medmim import files
from medmim.data.dataset.manifest import (
    Dataset,
    LedgerRow,
    VolumeRecord,
    content_hash,
    description_hash,
    fate_counts,
)
from medmim.errors import counted

_THREADS = 4


@dataclass(frozen=True)
class Problem:
    """A deviation from the written dataset: the kind of entry, the id of its volume, and the reason."""

    what: str
    reason: str
    id: str = ""

    def __str__(self) -> str:
        return f"{self.what}{f' of {self.id}' if self.id else ''}: {self.reason}"


def find_problems(dataset: Dataset, progress: Callable[[int, int], None] | None = None) -> list[Problem]:
    """Return all deviations of a dataset folder from what was written."""
    return [
        *_check_description(dataset),
        *_check_manifest(dataset.volumes),
        *_check_ledger(dataset),
        *_check_files(dataset, progress),
        *_check_folder(dataset),
    ]


def _check_description(dataset: Dataset) -> Iterator[Problem]:
    """Compare the hashes and counts in `dataset.json` with the files."""
    info, count = dataset.info, len(dataset.volumes)
    for name in ("manifest.jsonl", "ledger.jsonl"):
        written = info.file_sha256.get(name)
        if written and (dataset.root / name).is_file() and files.sha256_of(dataset.root / name) != written:
            yield Problem(name, "changed since it was written")
    if info.file_sha256.get("dataset.json", description_hash(info)) != description_hash(info):
        yield Problem("dataset.json", "changed since it was written")
    if info.content_hash != content_hash(dataset.volumes):
        yield Problem("manifest.jsonl", "does not match the content hash in dataset.json")
    if info.counts.get("volumes") != count:
        yield Problem("manifest.jsonl", f"has {counted(count, 'row')}, expected {info.counts.get('volumes')}")


def _check_manifest(volumes: Sequence[VolumeRecord]) -> Iterator[Problem]:
    """Find repeated volumes and subjects in several splits."""
    for one, count in Counter(volume.id for volume in volumes).items():
        if count > 1:
            yield Problem("row", f"occurs {count} times", one)
    splits: dict[str, set[str]] = {}
    for volume in volumes:
        splits.setdefault(volume.subject, set()).add(volume.split or "none")
    for subject, found in splits.items():
        if len(found) > 1:
            yield Problem("subject", f"is in several splits: {', '.join(sorted(found))}", subject)


def _check_ledger(dataset: Dataset) -> Iterator[Problem]:
    """Compare the ledger with the counts in `dataset.json` and with the manifest."""
    try:
        rows = [LedgerRow.model_validate(row) for row in files.read_jsonl(dataset.root / "ledger.jsonl")]
    except (OSError, ValueError, ValidationError) as error:
        yield Problem("ledger.jsonl", f"cannot be read ({type(error).__name__})")
        return
    for name, count in fate_counts(rows).items():
        if dataset.info.counts.get(name) != count:
            yield Problem("ledger.jsonl", f"gives {name} {count}, expected {dataset.info.counts.get(name)}")
    known = {volume.id for volume in dataset.volumes}
    for one in sorted({row.volume for row in rows if row.fate == "accepted" and row.volume} - known):
        yield Problem("ledger.jsonl", "refers to a volume that is not in the manifest", one)


def _check_files(dataset: Dataset, progress: Callable[[int, int], None] | None) -> Iterator[Problem]:
    expected = list(_expected_files(dataset.volumes))
    with ThreadPoolExecutor(_THREADS) as pool:
        reasons = pool.map(lambda one: _file_problem(dataset.root / one[2], one[3]), expected)
        for done, ((what, identifier, _, _), reason) in enumerate(
            zip(expected, reasons, strict=True), start=1
        ):
            if progress:
                progress(done, len(expected))
            if reason:
                yield Problem(what, reason, identifier)


def _expected_files(volumes: Sequence[VolumeRecord]) -> Iterator[tuple[str, str, str, str | None]]:
    for volume in volumes:
        yield "volume", volume.id, volume.image, volume.sha256
        if volume.label is not None:
            yield "label", volume.id, volume.label, volume.label_sha256


def _file_problem(path: Path, sha256: str | None) -> str | None:
    """Return how a file deviates from what was written; None if it does not."""
    if not path.is_file():
        return "missing"
    try:
        found = files.sha256_of(path)
    except OSError as error:
        return f"cannot be read ({type(error).__name__})"
    return None if found == sha256 else "changed since it was written"


def _check_folder(dataset: Dataset) -> Iterator[Problem]:
    """Find files without a manifest row, and staging folders (whose links point to the source)."""
    root = dataset.root
    known = {place for volume in dataset.volumes for place in (volume.image, volume.label)}
    below = (path for kind in ("volumes", "labels") for path in (root / kind).rglob("*"))
    count = sum(not path.is_dir() and str(path.relative_to(root)) not in known for path in below)
    if count:
        yield Problem("folder", f"{counted(count, 'file')} without a row in the manifest")
    if any(root.glob(".staging*")):
        yield Problem("folder", "the staging folder of a killed or running ingest")
