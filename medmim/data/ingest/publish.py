"""Writing of the dataset folder: a lock, a staging folder, and the publication of the result."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from medmim import files
from medmim.data.dataset.integrity import find_equal_voxels
from medmim.data.dataset.manifest import Dataset, DatasetInfo, VolumeRecord, read_dataset, write_dataset
from medmim.data.dataset.splits import assign_splits, given_splits
from medmim.data.ingest.context import IngestedVolume
from medmim.data.ingest.ledger import Ledger
from medmim.errors import DataError, UsageError

_SHOWS_SKIN = {"MR", "CT", "PT", "OT"}
_OTHER_PARTS = {"chest", "abdomen", "pelvis", "limb"}
_FACE_MM, _THIN_MM = 80.0, 20.0  # least extent along two axes, and least thickness, to show a face


_STAGING = ".staging"
_WRITTEN = ("manifest.jsonl", "ledger.jsonl", "dataset.json")


def face_flag(volume: VolumeRecord) -> dict[str, str]:
    """Return the flag of a volume that may show a face, else nothing.

    Volumes smaller than a face, single images and known other body parts are not flagged. If the body part is
    unknown, a face counts as possible.
    """
    if volume.spatial_dims != 3 or volume.modality not in _SHOWS_SKIN:
        return {}
    sides = [count * step for count, step in zip(volume.shape, volume.spacing_mm, strict=True)]
    known = set(volume.tokens)
    if sorted(sides)[1] < _FACE_MM or min(sides) < _THIN_MM:
        return {}
    if known & _OTHER_PARTS and not known & {"head", "neck"}:
        return {}
    return {"recognizable_face": "possible"}


@contextlib.contextmanager
def sole_use(out: Path) -> Iterator[Path]:
    """Lock the dataset folder and yield a staging folder in it, which is removed afterwards.

    Raises:
        UsageError: if another process is writing there.
    """
    files.private_folder(out)
    lock = os.open(out, os.O_RDONLY)
    try:
        _lock(lock, out)
        _clear(out)
        # a unique name, because workers of a killed run may still write to the old folder
        staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=out))
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    finally:
        os.close(lock)


def earlier_dataset(out: Path, project: str) -> Dataset | None:
    """Return the dataset of an earlier run in `out`, or None.

    Args:
        out: dataset folder.
        project: fingerprint of the project key.

    Raises:
        DataError: if the dataset cannot be read.
        UsageError: if it was made with another project key.
    """
    if not (out / "dataset.json").exists():
        return None
    try:
        old = read_dataset(out)
    except DataError as error:
        raise DataError(
            f"'{out}' contains a dataset that cannot be read, so its splits would be lost: expected a "
            "complete dataset; restore it, or choose another --out",
            reason=error.reason,
        ) from error
    if old.info.settings.get("project") != project:
        raise UsageError(
            f"'{out}' contains a dataset made with another project key: expected the key of this project; "
            "set MEDMIM_HOME to the folder that was used then, or choose another --out"
        )
    return old


def publish(
    out: Path, info: DatasetInfo, made: Sequence[IngestedVolume], *, ledger: Ledger, old: Dataset | None
) -> DatasetInfo:
    """Move the volumes to the dataset folder and write its three files; an interrupted run can be repeated.

    Raises:
        UsageError: if the folder contains the dataset of another source.
    """
    if old and old.volumes and not {one.volume.id for one in made} & {volume.id for volume in old.volumes}:
        raise UsageError(
            f"'{out}' contains the dataset of another source: expected the same source, with or without new "
            "scans; choose another --out, or remove the old dataset first"
        )
    volumes = _with_splits(made, old)
    for one in made:
        files.move(one.staged, out / one.volume.image)
        if one.staged_label is not None and one.volume.label is not None:
            files.move(one.staged_label, out / one.volume.label)
    info = info.model_copy(update={"warnings": tuple(find_equal_voxels(volumes))})
    written = write_dataset(out, info, volumes, ledger.rows())
    _remove_others(out, {path for one in volumes for path in (one.image, one.label) if path})
    return written


def _clear(out: Path) -> None:
    """Remove staging folders and temporary files that a killed run left."""
    for leftover in out.glob(f"{_STAGING}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for name in _WRITTEN:
        for leftover in out.glob(f".{name}.*.tmp"):
            leftover.unlink()


def _lock(descriptor: int, out: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UsageError(
            f"'{out}' is being written by another ingestion: expected one at a time; wait for it to end"
        ) from error


def _with_splits(made: Sequence[IngestedVolume], old: Dataset | None) -> list[VolumeRecord]:
    """Return the volumes with the split of their subject; subjects of the earlier dataset keep theirs."""
    known = given_splits((one.volume.subject, one.volume.split) for one in made)
    for volume in old.volumes if old else ():
        if volume.split:
            known[volume.subject] = volume.split
    labelled: dict[str, bool] = {}
    for one in made:
        labelled[one.volume.subject] = labelled.get(one.volume.subject, False) or one.volume.label is not None
    splits = assign_splits(labelled, known)
    return [
        one.volume.model_copy(
            update={
                "split": splits[one.volume.subject],
                "flags": {**one.volume.flags, **face_flag(one.volume)},
            }
        )
        for one in made
    ]


def _remove_others(out: Path, kept: set[str]) -> None:
    """Remove volumes of earlier runs that are no longer in the manifest, and folders that are empty then."""
    for kind in ("volumes", "labels"):
        for path in sorted((out / kind).rglob("*"), reverse=True):
            if path.is_dir():
                with contextlib.suppress(OSError):  # not empty
                    path.rmdir()
            elif str(path.relative_to(out)) not in kept:
                path.unlink()
