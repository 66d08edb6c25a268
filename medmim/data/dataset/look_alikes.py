"""Patients that may be one person under two identifiers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from medmim.data.dataset.manifest import VolumeRecord


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
