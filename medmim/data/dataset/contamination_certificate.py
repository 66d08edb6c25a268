"""Contamination certificate: whether training used any test patient, compared by key and by voxels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medmim import files
from medmim.data.dataset.channels import channels_of
from medmim.data.dataset.manifest import VolumeRecord
from medmim.data.dataset.perceptual_hash import similar_pairs
from medmim.data.dataset.splits import patient_digest
from medmim.errors import counted
from medmim.text_formats import parse_json

CERTIFICATE = "certificate.json"
NONE_FOUND = "no test patient found (exact voxels and keys)"
CONTAMINATED = "contaminated"
EXACT_ONLY = "no test patient found (exact voxels and keys; look-alikes not compared)"
POSSIBLE = "possible (look-alike keys or voxels)"
UNKNOWN = "unknown"
_FORMER = {"clean": NONE_FOUND}  # verdict in certificates of earlier versions
_METADATA = "medmim.seen_patients"
_PATIENTS = "patients.json"
_PIXELS = "pixels.json"


@dataclass(frozen=True)
class SeenPatients:
    """Patients and voxels used by a training: digests that cannot be reversed, and perceptual hashes.

    Attributes:
        patients: digests of the patients.
        pixels: digests of the voxels.
        unhashed: number of volumes that were ingested without a voxel hash.
        loose: digests of the patients' identifiers without case, punctuation and leading zeros.
        perceptual: perceptual hashes of the images; coarser than a thumbnail of 12×12 pixels.
    """

    patients: frozenset[str] = frozenset()
    pixels: frozenset[str] = frozenset()
    unhashed: int = 0
    loose: frozenset[str] = frozenset()
    perceptual: frozenset[str] = frozenset()

    def as_metadata(self) -> dict[str, str]:
        """Return the record as metadata of a safetensors file, which keep it with copied weights."""
        return {
            _METADATA: json.dumps(
                {"patients": sorted(self.patients), "pixels": sorted(self.pixels), **self._rest()}
            )
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> SeenPatients | None:
        """Return the record in the metadata of a safetensors file; None where there is none."""
        if _METADATA not in metadata:
            return None
        try:
            record = parse_json(metadata[_METADATA])
            return cls._read(record["patients"], record["pixels"], record)
        except (ValueError, KeyError, TypeError):  # damaged: as if there were none
            return None

    def __or__(self, other: SeenPatients) -> SeenPatients:
        """Return the union."""
        return SeenPatients(
            self.patients | other.patients,
            self.pixels | other.pixels,
            self.unhashed + other.unhashed,
            self.loose | other.loose,
            self.perceptual | other.perceptual,
        )

    def _rest(self) -> dict[str, Any]:
        return {"unhashed": self.unhashed, "loose": sorted(self.loose), "perceptual": sorted(self.perceptual)}

    @classmethod
    def _read(cls, patients: Iterable[str], pixels: Iterable[str], rest: Mapping[str, Any]) -> SeenPatients:
        newer = (frozenset(rest.get(name, ())) for name in ("loose", "perceptual"))  # absent before 0.2.0
        return cls(frozenset(patients), frozenset(pixels), int(rest["unhashed"]), *newer)


@dataclass(frozen=True)
class Overlap:
    """Overlap of one stage with the test split: patients by key, volumes by equal voxels.

    `comparable` is whether both sides have perceptual hashes; images ingested before 0.2.0 have none.
    `look_alikes` counts test patients that may be seen under another key: their identifier differs from a
    seen one only in case, punctuation or leading zeros, or an image of theirs is similar to a seen one.
    """

    patients_seen: int
    by_key: int
    by_pixels: int
    unhashed: int
    look_alikes: int = 0
    comparable: bool = False


@dataclass(frozen=True)
class Certificate:
    """Overlap of pretraining, fine-tuning and normalisation with the test split.

    Attributes:
        dataset_hash, split_hash: hashes of the dataset and its test split.
        test_patients, test_volumes: size of the test split.
        overlaps: overlap by stage; None for a stage without a record.
        verdict: NONE_FOUND, or EXACT_ONLY without perceptual hashes; CONTAMINATED; POSSIBLE for look-alikes;
            or UNKNOWN if keys or voxels could not be compared.
    """

    dataset_hash: str
    split_hash: str
    test_patients: int
    test_volumes: int
    overlaps: Mapping[str, Overlap | None]

    @property
    def verdict(self) -> str:
        """Verdict for the registry."""
        known = [overlap for overlap in self.overlaps.values() if overlap is not None]
        if any(overlap.by_key or overlap.by_pixels for overlap in known):
            return CONTAMINATED
        if any(overlap.look_alikes for overlap in known):
            return POSSIBLE
        whole = len(known) == len(self.overlaps) and not any(overlap.unhashed for overlap in known)
        if whole:
            return NONE_FOUND if all(overlap.comparable for overlap in known) else EXACT_ONLY
        return UNKNOWN

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings for the user: test patients that a stage saw, or that this is unknown."""
        found = []
        for stage, overlap in self.overlaps.items():
            if overlap is None:
                found.append(f"it is unknown whether {stage} saw test patients: its record is missing")
            elif overlap.by_key or overlap.by_pixels:
                found.append(
                    f"{stage} saw {counted(overlap.by_key, 'test patient')} (equal keys) and "
                    f"{counted(overlap.by_pixels, 'test volume')} (equal voxels); scores are optimistic"
                )
            elif overlap.look_alikes:
                found.append(
                    f"{stage} may have seen {counted(overlap.look_alikes, 'test patient')}: the identifiers "
                    "differ only in case, punctuation or leading zeros from seen ones, or the images are "
                    "similar"
                )
            elif overlap.unhashed:
                found.append(
                    f"it is unknown whether {stage} saw test patients under another key: no hash of the "
                    f"voxels of {counted(overlap.unhashed, 'volume')}; ingest them again"
                )
        if self.verdict == EXACT_ONLY:
            found.append(
                "altered copies of test images were not searched for, because perceptual hashes are missing: "
                "data or weights were made before 0.2.0, or the images are tiny; ingest and train again"
            )
        return tuple(found)

    def as_json(self) -> dict[str, Any]:
        """Return counts and the verdict, without identifiers."""
        return {**asdict(self), "verdict": self.verdict}


def verdict_of(certificate: Mapping[str, Any]) -> str:
    """Return the verdict of a stored certificate; UNKNOWN for an empty one."""
    found = str(certificate.get("verdict", UNKNOWN))
    found = _FORMER.get(found, found)
    overlaps = certificate.get("overlaps", {}).values()
    if found == NONE_FOUND and not all((one or {}).get("comparable") for one in overlaps):
        return EXACT_ONLY  # certificates of versions that did not look for look-alikes
    return found


def worst_verdict(verdicts: Iterable[str]) -> str:
    """Return the worst verdict; UNKNOWN for none."""
    order = (CONTAMINATED, POSSIBLE, UNKNOWN, EXACT_ONLY, NONE_FOUND)
    return min((one if one in order else UNKNOWN for one in verdicts), key=order.index, default=UNKNOWN)


def seen_patients_of(volumes: Iterable[VolumeRecord]) -> SeenPatients:
    """Return the record of a training on these volumes."""
    listed = [channel for volume in volumes for channel in channels_of(volume)]
    hashes = [volume.pixels_sha256 for volume in listed]
    return SeenPatients(
        frozenset(patient_digest(volume.subject) for volume in listed),
        frozenset(_digest(found) for found in hashes if found),
        sum(found is None for found in hashes),
        frozenset(_digest(volume.loose_subject) for volume in listed if volume.loose_subject),
        frozenset(volume.perceptual_hash for volume in listed if volume.perceptual_hash),
    )


def seen_scans(
    scans: Iterable[VolumeRecord], records: Iterable[SeenPatients | None], log: Callable[[str], None]
) -> tuple[str, ...]:
    """Return a warning, which is logged, about scans with the patient or the voxels of a training scan."""
    seen = SeenPatients()
    for record in records:
        seen |= record or SeenPatients()
    own = [seen_patients_of([scan]) for scan in scans]
    if not (count := sum(bool(one.patients & seen.patients or one.pixels & seen.pixels) for one in own)):
        return ()
    line = (
        f"this model was trained on the patient or the voxels of {count} of {counted(len(own), 'scan')}: "
        "scores on them are no test"
    )
    log(f"warning: {line}")
    return (line,)


def write_seen_patients(folder: Path, seen: SeenPatients) -> None:
    """Write the record next to the weights, never into the MLflow store."""
    files.write_json(folder / _PATIENTS, sorted(seen.patients))
    files.write_json(folder / _PIXELS, {"digests": sorted(seen.pixels), **seen._rest()})


def read_seen_patients(folder: Path) -> SeenPatients | None:
    """Read the record next to the weights; None if there is none, or it is damaged."""
    if not (folder / _PATIENTS).is_file() or not (folder / _PIXELS).is_file():
        return None
    try:
        patients = parse_json((folder / _PATIENTS).read_text(encoding="utf-8"))
        pixels = parse_json((folder / _PIXELS).read_text(encoding="utf-8"))
        return SeenPatients._read(patients, pixels["digests"], pixels)
    except (ValueError, KeyError, TypeError):
        return None


def certify(
    test: Iterable[VolumeRecord],
    stages: Mapping[str, SeenPatients | None],
    *,
    dataset_hash: str,
    split_hash: str,
) -> Certificate:
    """Compare the records of the stages with the test split.

    Args:
        stages: record by stage name; None for a stage without a record.
    """
    test = tuple(test)
    tested = seen_patients_of(test)
    overlaps = {
        name: None
        if seen is None
        else Overlap(
            patients_seen=len(seen.patients),
            by_key=len(seen.patients & tested.patients),
            by_pixels=len(seen.pixels & tested.pixels),
            unhashed=seen.unhashed + tested.unhashed,
            look_alikes=_look_alikes(test, seen),
            comparable=bool(seen.perceptual and tested.perceptual) or not (seen.patients and test),
        )
        for name, seen in stages.items()
    }
    volumes = len(tested.pixels) + tested.unhashed
    return Certificate(dataset_hash, split_hash, len(tested.patients), volumes, overlaps)


def _look_alikes(test: Iterable[VolumeRecord], seen: SeenPatients) -> int:
    """Return how many test patients resemble a seen one by identifier or image, and are not seen by key."""
    unseen = [volume for volume in test if patient_digest(volume.subject) not in seen.patients]
    images = [channel for volume in unseen for channel in channels_of(volume) if channel.perceptual_hash]
    pairs = similar_pairs([one.perceptual_hash or "" for one in images], sorted(seen.perceptual))
    similar = {images[place].subject for place, _ in pairs}
    return len(
        similar
        | {one.subject for one in unseen if one.loose_subject and _digest(one.loose_subject) in seen.loose}
    )


def _digest(text: str) -> str:
    return hashlib.sha256(f"report/{text}".encode()).hexdigest()[:16]
