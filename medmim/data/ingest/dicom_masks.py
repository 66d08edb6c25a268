"""DICOM images whose role the user gave with `--role`: masks stored as images, and files to skip."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medmim.data.dicom.series import group_slices
from medmim.data.dicom.slices import RejectedSlices
from medmim.data.ingest.context import IngestContext
from medmim.data.ingest.dicom_series import convert_groups, numbers_of, slices_of
from medmim.data.ingest.layout_rules import given_role
from medmim.data.ingest.scan import ScannedFile


@dataclass(frozen=True)
class DicomMask:
    """A mask that was stored as DICOM images.

    Attributes:
        numbers: numbers of its files.
        path: path below the source that stands for its folder, such as `MASKS/liver.nii`.
        patient: patient and study of its headers.
    """

    numbers: tuple[int, ...]
    path: Path
    patient: tuple[str, str]


def take_given_roles(
    context: IngestContext, source: Path, scanned: Mapping[int, ScannedFile], paths: Mapping[int, Path]
) -> tuple[dict[int, ScannedFile], dict[Path, dict[int, ScannedFile]], list[int]]:
    """Return the files without DICOM images that are labels or to be skipped, and these.

    Returns:
        The other files, the labels by folder, and the numbers of the files to skip.
    """
    given = context.options.rules.roles
    rest, labels, skipped = dict(scanned), defaultdict[Path, dict[int, ScannedFile]](dict), []
    for number, one in scanned.items() if given else ():
        path = paths[number]
        inside = bool(one.headers) and path.is_relative_to(source)
        role = given_role(path.relative_to(source).as_posix(), given) if inside else None
        if role in ("label", "skip"):
            del rest[number]
        if role == "label":
            labels[path.parent][number] = one
        elif role == "skip":
            skipped.append(number)
    return rest, dict(labels), skipped


def masks_from_dicom(
    context: IngestContext, labels: Mapping[Path, Mapping[int, ScannedFile]], paths: Mapping[int, Path]
) -> list[DicomMask]:
    """Convert the images of each folder to a mask in the staging folder; record those that cannot be used."""
    found: list[DicomMask] = []
    used: set[int] = set()
    for place, (folder, scanned) in enumerate(labels.items()):
        groups = group_slices(slices_of(scanned, paths)[0], {})
        usable = [group for group in groups if not isinstance(group, RejectedSlices)]
        for group in groups:
            if isinstance(group, RejectedSlices):
                context.ledger.record(sorted(numbers_of(group) - used), "quarantined", group.reason)
                used |= numbers_of(group)
        names = [f"dicom-mask-{place}-{number}" for number, _ in enumerate(usable)]
        for one in convert_groups(context, usable, names):
            numbers = tuple(sorted(numbers_of(one.group) - used))
            used |= {*numbers}
            if one.result.reason:
                context.ledger.record(numbers, "quarantined", one.result.reason)
                continue
            header = one.group.slices[0].header
            path = folder.with_name(f"{folder.name}{'' if len(usable) == 1 else f'_{numbers[0]}'}.nii")
            context.unpacked[path] = Path(one.target)
            found.append(DicomMask(numbers, path, (header.patient, header.study)))
    return found
