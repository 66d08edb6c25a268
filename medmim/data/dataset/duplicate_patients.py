"""Signs that two patients are the same person: equal or similar voxels, and identifiers that look alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from medmim.data.dataset.manifest import VolumeRecord
from medmim.data.dataset.perceptual_hash import similar_pairs

MAX_IMAGES = 20_000  # every image is compared with every other: about 20 seconds
_SHOWN = 100


def find_duplicate_patients(volumes: Sequence[VolumeRecord]) -> list[dict[str, Any]]:
    """Return a warning for each sign that patients may be one person."""
    return [*find_equal_voxels(volumes), *find_look_alike_patients(volumes), *find_similar_images(volumes)]


def find_equal_voxels(volumes: Iterable[VolumeRecord]) -> list[dict[str, Any]]:
    """Return a warning for each group of volumes with equal voxels under different subjects.

    Each lists volumes, subjects and splits; more than one split means that test data leaked into training.
    """
    groups: dict[str, list[VolumeRecord]] = {}
    for volume in volumes:
        if volume.pixels_sha256:
            groups.setdefault(volume.pixels_sha256, []).append(volume)
    alike = [group for group in groups.values() if len({one.subject for one in group}) > 1]
    warnings: list[dict[str, Any]] = [
        {
            "kind": "same_pixels_under_two_subjects",
            "volumes": sorted(one.id for one in group),
            "subjects": sorted({one.subject for one in group}),
            "splits": sorted({one.split for one in group if one.split}),
        }
        for group in alike
    ]
    return sorted(warnings, key=lambda warning: str(warning["volumes"]))


def patients_with_equal_images(volumes: Iterable[VolumeRecord]) -> dict[str, str]:
    """Return the first of the subjects that are linked by equal voxels, by subject."""
    first: dict[str, str] = {}
    leaders: dict[str, str] = {}
    for volume in sorted(volumes, key=lambda one: one.subject):
        own = leaders.setdefault(volume.subject, volume.subject)
        other = leaders[first.setdefault(volume.pixels_sha256 or volume.id, volume.subject)]
        if own != other:
            leaders = {one: min(own, other) if led in (own, other) else led for one, led in leaders.items()}
    return leaders


def find_missing_hashes(volumes: Sequence[VolumeRecord]) -> list[dict[str, Any]]:
    """Return a warning if images have no perceptual hash and cannot be compared, else nothing."""
    missing = sum(volume.perceptual_hash is None for volume in volumes)
    if not missing:
        return []
    return [{"kind": "images_without_perceptual_hash", "missing": missing, "images": len(volumes)}]


def find_similar_pairs(
    first: Sequence[VolumeRecord], second: Sequence[VolumeRecord]
) -> list[tuple[VolumeRecord, VolumeRecord]]:
    """Return pairs of images, one of each group and of different subjects, that may be altered copies."""
    groups = [[one for one in group if one.perceptual_hash] for group in (first, second)]
    hashes = [[one.perceptual_hash or "" for one in group] for group in groups]
    pairs = ((groups[0][left], groups[1][right]) for left, right in similar_pairs(*hashes))
    return [pair for pair in pairs if _are_other_images(*pair)]


def find_look_alike_patients(volumes: Iterable[VolumeRecord]) -> list[dict[str, Any]]:
    """Return a warning if identifiers differ only in case, punctuation or leading zeros, else nothing.

    It lists the subjects of each group; `divided` counts the groups that are in more than one split.
    """
    groups: dict[str, dict[str, str | None]] = defaultdict(dict)
    for volume in volumes:
        if volume.loose_subject:
            groups[volume.loose_subject][volume.subject] = volume.split
    alike = [group for group in groups.values() if len(group) > 1]
    if not alike:
        return []
    return [
        {
            "kind": "patients_look_alike",
            "patients": sum(map(len, alike)),
            "subjects": sorted(sorted(group) for group in alike),
            "divided": sum(len(set(group.values())) > 1 for group in alike),
        }
    ]


def find_similar_images(volumes: Iterable[VolumeRecord]) -> list[dict[str, Any]]:
    """Return a warning if images of different subjects may be altered copies of each other, else nothing.

    It lists the first pairs of volumes; `divided` counts the pairs that are in two splits.
    """
    hashed = [volume for volume in volumes if volume.perceptual_hash]
    if len(hashed) > MAX_IMAGES:
        return [{"kind": "similar_images_not_compared", "images": len(hashed), "limit": MAX_IMAGES}]
    hashes = [volume.perceptual_hash or "" for volume in hashed]
    pairs = [
        (hashed[first], hashed[second])
        for first, second in similar_pairs(hashes, hashes)
        if first < second and _are_other_images(hashed[first], hashed[second])
    ]
    if not pairs:
        return []
    return [
        {
            "kind": "similar_images_under_two_subjects",
            "pairs": len(pairs),
            "images": len({one.id for pair in pairs for one in pair}),
            "divided": sum(first.split != second.split for first, second in pairs),
            "volumes": sorted(sorted((first.id, second.id)) for first, second in pairs)[:_SHOWN],
        }
    ]


def _are_other_images(first: VolumeRecord, second: VolumeRecord) -> bool:
    """Return whether two volumes are of different subjects and not reported for equal voxels."""
    equal = first.pixels_sha256 is not None and first.pixels_sha256 == second.pixels_sha256
    return first.subject != second.subject and not equal
