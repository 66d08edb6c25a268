"""Files of a dataset folder are those that ingestion recorded: each is compared with its SHA-256 when read.

Volumes in the cache of prepared volumes are not read again: what was recorded is used. Labels are also
compared before a training, which would otherwise end with an error when it is scored. Only a label that is
newer than `dataset.json`, which ingestion writes last, is hashed there; in a copy these may be all.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from medmim import files
from medmim.data.dataset.manifest import VolumeRecord
from medmim.data.formats.nifti import Image, read_image
from medmim.errors import DataError, counted

_THREADS = 4


def read_recorded(path: Path, sha256: str | None) -> Image:
    """Read an image or label of a dataset.

    Args:
        sha256: what ingestion recorded; None: nothing.

    Raises:
        DataError: with reason damaged_dataset if the file was changed since; else as `read_image`.
    """
    image = read_image(path)
    refuse_changed(path, sha256)
    return image


def refuse_changed(path: Path, sha256: str | None) -> None:
    """Raise DataError, with reason damaged_dataset, unless a file is the one that ingestion recorded."""
    if sha256 is not None and files.sha256_of(path) != sha256:
        raise DataError(
            f"'{path}' was changed after ingestion: restore it (`medmim verify` lists all changed files)",
            reason="damaged_dataset",
        )


def refuse_changed_labels(root: Path, volumes: Sequence[VolumeRecord]) -> None:
    """Raise DataError, with reason damaged_dataset, if labels were changed after ingestion.

    A missing label is reported when it is read.
    """
    recorded = {one.label: one.label_sha256 for one in volumes if one.label and one.label_sha256}
    ingested = (root / "dataset.json").stat().st_mtime_ns
    newer = [
        name for name in recorded if (root / name).is_file() and (root / name).stat().st_mtime_ns > ingested
    ]
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(lambda name: files.sha256_of(root / name), newer))
    changed = [name for name, digest in zip(newer, found, strict=True) if digest != recorded[name]]
    if changed:
        raise DataError(
            f"{counted(len(changed), 'label was', 'labels were')} changed after ingestion, such as "
            f"'{root / changed[0]}': restore each (`medmim verify` lists all), or change the source and run "
            "`medmim ingest` again",
            reason="damaged_dataset",
        )
