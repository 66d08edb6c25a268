"""Patients that may be one person under two identifiers: equal voxels, and identifiers that look alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from medmim.data.dataset.manifest import VolumeRecord


def find_look_alikes(volumes: Sequence[VolumeRecord]) -> list[dict[str, Any]]:
    """Return a warning for each sign that patients may be one person."""
    return [*find_equal_voxels(volumes), *find_look_alike_patients(volumes)]


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
