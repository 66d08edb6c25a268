"""Publication of an ingestion in the dataset folder: splits, flags of possible faces, warnings, ledger."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from medmim import files
from medmim.data.dataset.duplicate_patients import find_duplicate_patients, patients_with_equal_images
from medmim.data.dataset.manifest import (
    Dataset,
    DatasetInfo,
    LedgerRow,
    Split,
    VolumeRecord,
    read_dataset,
    write_dataset,
)
from medmim.data.dataset.splits import assign_splits, given_splits
from medmim.data.ingest.context import IngestedVolume
from medmim.data.ingest.label_regions import region_records
from medmim.errors import DataError, UsageError, counted

_SHOWS_SKIN = {"MR", "CT", "PT", "OT"}  # modalities; OT: the file does not state its modality
_OTHER_PARTS = {"chest", "abdomen", "pelvis", "limb"}
_FACE_MM, _THIN_MM = 80.0, 20.0  # least extent along two axes, and least thickness, to show a face

Named = TypeVar("Named", VolumeRecord, LedgerRow)
FIRST_SOURCE = "source-1"
_FEWEST_TRAIN = 3  # patients, of which one moves to a split that the dataset lacks


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


def earlier_dataset(out: Path, project: str) -> Dataset | None:
    """Return the dataset of an earlier run in `out`, or None.

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


@dataclass(frozen=True)
class Publication:
    """What an ingestion adds to a dataset folder.

    Attributes:
        out: dataset folder.
        info: description of the dataset.
        made: volumes in the staging folder.
        rows: ledger of the source.
        old: existing dataset.
        source: name of the source if it is added to a dataset of other sources.
        fixed_splits: whether the user gave the splits, which then replace those of the existing dataset.
    """

    out: Path
    info: DatasetInfo
    made: Sequence[IngestedVolume]
    rows: Sequence[LedgerRow]
    old: Dataset | None = None
    source: str | None = None
    fixed_splits: bool = False


def publish(new: Publication) -> DatasetInfo:
    """Move the volumes to the dataset folder and write its three files; an interrupted run can be repeated.

    Raises:
        UsageError: if the folder contains the dataset of another source.
        DataError: if a volume is in two sources, or they give a class number two names.
    """
    _check_source(new)
    kept, kept_rows = _of_other_sources(new)
    made, split_warnings = _with_splits(new)
    volumes = [*kept, *(_with_source(one, new.source) for one in made)]
    rows = [row.model_copy(update={"number": number}) for number, row in enumerate(kept_rows)]
    rows += [
        _with_source(row, new.source).model_copy(update={"number": row.number + len(rows)})
        for row in new.rows
    ]
    places = {one.staged: new.out / one.volume.image for one in new.made}
    places |= {one.staged_label: new.out / (one.volume.label or "") for one in new.made if one.staged_label}
    files.move_together(places)
    warnings = (
        *new.info.warnings,
        *split_warnings,
        *_shared_patients(kept, made),
        *find_duplicate_patients(volumes),
    )
    regions = region_records(new.made, new.old.info.regions if new.old and kept else ())
    names = _all_label_names(new, kept)
    info = new.info.model_copy(update={"warnings": warnings, "label_names": names, "regions": regions})
    written = write_dataset(new.out, info, volumes, rows)
    _remove_others(new.out, {path for one in volumes for path in (one.image, one.label) if path})
    return written


def _check_source(new: Publication) -> None:
    """Refuse to replace the dataset of another source, or one of several sources."""
    if not new.old or not new.old.volumes:
        return
    old = {volume.id for volume in new.old.volumes}
    if new.source is None and any(volume.source for volume in new.old.volumes):
        raise UsageError(
            f"'{new.out}' contains a dataset of several sources: expected --add with the --source to update; "
            "choose another --out for a new dataset"
        )
    if new.source is None and not {one.volume.id for one in new.made} & old:
        raise UsageError(
            f"'{new.out}' contains the dataset of another source: expected the same source, with or without "
            "new scans; add this one with --add, choose another --out, or remove the old dataset first"
        )


def _of_other_sources(new: Publication) -> tuple[list[VolumeRecord], list[LedgerRow]]:
    """Return the volumes and ledger rows of the sources that are kept."""
    if new.old is None or new.source is None:
        return [], []
    kept = [volume for volume in new.old.volumes if (volume.source or FIRST_SOURCE) != new.source]
    if twice := {one.volume.id for one in new.made} & {volume.id for volume in kept}:
        raise DataError(
            f"in this source and in one that was ingested before: {counted(len(twice), 'volume')}; expected "
            "every scan in one source; remove the copies, or pass the --source that they belong to",
            reason="volume_in_two_sources",
        )
    rows = map(LedgerRow.model_validate, files.read_jsonl(new.old.root / "ledger.jsonl"))
    kept_rows = [row for row in rows if (row.source or FIRST_SOURCE) != new.source]
    return [_with_source(one, one.source or FIRST_SOURCE) for one in kept], [
        _with_source(row, row.source or FIRST_SOURCE) for row in kept_rows
    ]


def _with_source(record: Named, source: str | None) -> Named:
    return record if source is None else record.model_copy(update={"source": source})


def _all_label_names(new: Publication, kept: Sequence[VolumeRecord]) -> dict[int, str]:
    """Return the class names of all sources."""
    known = dict(new.old.info.label_names) if new.old and kept else {}
    for number, name in new.info.label_names.items():
        if known.setdefault(number, name) not in (name, f"class {number}") and name != f"class {number}":
            raise DataError(
                f"label {number} is '{known[number]}' in the dataset and '{name}' in this source: expected "
                f"one meaning; pass --label-name {number}='{known[number]}' if they are the same class, else "
                "renumber the labels",
                reason="label_names_differ",
            )
    return {number: new.info.label_names.get(number, name) for number, name in sorted(known.items())}


def _shared_patients(kept: Sequence[VolumeRecord], made: Sequence[VolumeRecord]) -> list[dict[str, Any]]:
    """Return a warning if patients of a new source are in the sources that were there before."""
    shared = {one.subject for one in kept} & {one.subject for one in made}
    return [{"kind": "patients_in_two_sources", "patients": len(shared)}] if shared else []


def _with_splits(new: Publication) -> tuple[list[VolumeRecord], list[dict[str, Any]]]:
    """Return the volumes with the split of their subject, and a warning if a split had to be made.

    Subjects of the existing dataset keep their split.
    """
    made, old = new.made, new.old
    given = given_splits((one.volume.subject, one.volume.split) for one in made)
    subjects = {one.volume.id: one.volume.subject for one in made}
    # by volume too: another release may have identified patients otherwise
    before = {
        subjects.get(one.id, one.subject): one.split for one in (old.volumes if old else ()) if one.split
    }
    lacking = None if new.fixed_splits else _missing_split(given, set(subjects.values()))
    completed = _with_third_split(given, lacking) if lacking else given
    known = {**before, **given} if new.fixed_splits else {**completed, **before}
    labelled: dict[str, bool] = {}
    for one in made:
        labelled[one.volume.subject] = labelled.get(one.volume.subject, False) or one.volume.label is not None
    splits = assign_splits(labelled, known, patients_with_equal_images(one.volume for one in made))
    chosen = sum(split == lacking for split in splits.values())
    trained = sum(split == "train" for split in given.values())
    warnings = (
        [{"kind": "split_made", "split": lacking, "patients": chosen, "train": trained}] if chosen else []
    )
    return [
        one.volume.model_copy(
            update={
                "split": splits[one.volume.subject],
                "flags": {**one.volume.flags, **face_flag(one.volume)},
            }
        )
        for one in made
    ], warnings


def _missing_split(given: Mapping[str, Split], subjects: set[str]) -> Split | None:
    """Return val or test if the dataset has only the other two splits, and enough patients for three."""
    names = set(given.values())
    wanted: tuple[Split, ...] = ("val", "test")
    missing = [name for name in wanted if name not in names]
    few = sum(split == "train" for split in given.values()) < _FEWEST_TRAIN
    return None if few or given.keys() != subjects or len(missing) != 1 else missing[0]


def _with_third_split(given: Mapping[str, Split], missing: Split) -> dict[str, Split]:
    """Return the splits with one in eight patients of train in the missing split; keys are random."""
    train = sorted(subject for subject, split in given.items() if split == "train")
    return {**given, **dict.fromkeys(train[: max(1, len(train) // 8)], missing)}


def _remove_others(out: Path, kept: set[str]) -> None:
    """Remove volumes of earlier runs that are no longer in the manifest, and folders that are empty then."""
    for kind in ("volumes", "labels"):
        for path in sorted((out / kind).rglob("*"), reverse=True):
            if path.is_dir():
                with contextlib.suppress(OSError):  # not empty
                    path.rmdir()
            elif str(path.relative_to(out)) not in kept:
                path.unlink()
