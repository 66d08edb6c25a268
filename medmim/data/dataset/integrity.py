"""Is a dataset folder still what was written: every hash, every count, every promise of its three files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from medmim import files
from medmim.data.dataset.manifest import Dataset, LedgerRow, VolumeRecord, content_hash, description_hash

_THREADS = 4


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it was written: what it is, the id of its volume, and how it differs."""

    what: str
    reason: str
    id: str = ""

    def __str__(self) -> str:
        return f"{self.what}{f' of {self.id}' if self.id else ''}: {self.reason}"


def problems_of(dataset: Dataset, tell: Callable[[int, int], None] | None = None) -> list[Problem]:
    """Return everything that is wrong with a dataset, each volume by its id.

    Args:
        dataset: as read from its folder.
        tell: told how many of how many files were hashed.
    """
    return [
        *_description(dataset),
        *_rows(dataset.volumes),
        *_ledger(dataset),
        *_files(dataset, tell),
        *_strangers(dataset),
    ]


def _description(dataset: Dataset) -> Iterator[Problem]:
    """Compare `dataset.json` with itself and with the other two files."""
    info, count = dataset.info, len(dataset.volumes)
    for name in ("manifest.jsonl", "ledger.jsonl"):
        written = info.file_sha256.get(name)
        if written and (dataset.root / name).is_file() and files.sha256_of(dataset.root / name) != written:
            yield Problem(name, "changed since it was written")
    if info.file_sha256.get("dataset.json", description_hash(info)) != description_hash(info):
        yield Problem("dataset.json", "changed since it was written")
    if info.content_hash != content_hash(dataset.volumes):
        yield Problem("manifest.jsonl", "does not give the content hash of dataset.json")
    if info.counts.get("volumes") != count:
        yield Problem("manifest.jsonl", f"has {count} rows, expected {info.counts.get('volumes')}")


def _rows(volumes: Sequence[VolumeRecord]) -> Iterator[Problem]:
    """Look for volumes that are there twice, and for subjects in several splits."""
    for one, count in Counter(volume.id for volume in volumes).items():
        if count > 1:
            yield Problem("row", f"is there {count} times", one)
    splits: dict[str, set[str]] = {}
    for volume in volumes:
        splits.setdefault(volume.subject, set()).add(volume.split or "none")
    for subject, found in splits.items():
        if len(found) > 1:
            yield Problem("subject", f"is in several splits: {', '.join(sorted(found))}", subject)


def _ledger(dataset: Dataset) -> Iterator[Problem]:
    """Compare the ledger with its counts: files seen are files accepted, quarantined and skipped."""
    try:
        rows = [LedgerRow.model_validate(row) for row in files.read_jsonl(dataset.root / "ledger.jsonl")]
    except (OSError, ValueError, ValidationError) as error:
        yield Problem("ledger.jsonl", f"cannot be read ({type(error).__name__})")
        return
    fates = Counter(row.fate for row in rows)
    found = {
        "files_seen": len(rows),
        "files_accepted": fates["accepted"],
        "files_quarantined": fates["quarantined"],
        "files_skipped": fates["skipped"],
    }
    for name, count in found.items():
        if dataset.info.counts.get(name) != count:
            yield Problem("ledger.jsonl", f"gives {name} {count}, expected {dataset.info.counts.get(name)}")
    known = {volume.id for volume in dataset.volumes}
    for one in sorted({row.volume for row in rows if row.fate == "accepted" and row.volume} - known):
        yield Problem("ledger.jsonl", "names a volume that is not in the manifest", one)


def _files(dataset: Dataset, tell: Callable[[int, int], None] | None) -> Iterator[Problem]:
    wanted = list(_wanted(dataset.volumes))
    with ThreadPoolExecutor(_THREADS) as pool:
        states = pool.map(lambda one: _state(dataset.root / one[2], one[3]), wanted)
        for done, ((what, identifier, _, _), state) in enumerate(zip(wanted, states, strict=True), start=1):
            if tell:
                tell(done, len(wanted))
            if state:
                yield Problem(what, state, identifier)


def _wanted(volumes: Sequence[VolumeRecord]) -> Iterator[tuple[str, str, str, str | None]]:
    for volume in volumes:
        yield "volume", volume.id, volume.image, volume.sha256
        if volume.label is not None:
            yield "label", volume.id, volume.label, volume.label_sha256


def _state(path: Path, sha256: str | None) -> str | None:
    """Return how a file differs from what was written, or None if it does not."""
    if not path.is_file():
        return "missing"
    try:
        found = files.sha256_of(path)
    except OSError as error:
        return f"cannot be read ({type(error).__name__})"
    return None if found == sha256 else "changed since it was written"


def _strangers(dataset: Dataset) -> Iterator[Problem]:
    """Look for files that no row names, and for what a killed run left: its links name the source."""
    root = dataset.root
    known = {place for volume in dataset.volumes for place in (volume.image, volume.label)}
    below = (path for kind in ("volumes", "labels") for path in (root / kind).rglob("*"))
    count = sum(not path.is_dir() and str(path.relative_to(root)) not in known for path in below)
    if count:
        yield Problem("folder", f"{count} files that the manifest does not name")
    if any(root.glob(".staging*")):
        yield Problem("folder", "the staging folder of a run that was cut off, or that is running now")
