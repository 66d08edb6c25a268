"""One number for the voxels of a volume, whatever its header says: the same under two patients is a leak."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from medmim.data.dataset.manifest import VolumeRecord


def same_pixels(volumes: Iterable[VolumeRecord]) -> list[dict[str, Any]]:
    """Return a warning for all volumes of several subjects that hold the same voxels.

    Each names the volumes, the subjects and the splits that they are in; more than one split is a leak from
    training into testing.
    """
    groups: dict[str, list[VolumeRecord]] = {}
    for volume in volumes:
        if volume.pixels_sha256:
            groups.setdefault(volume.pixels_sha256, []).append(volume)
    alike = [group for group in groups.values() if len({one.subject for one in group}) > 1]
    return sorted((_warning(group) for group in alike), key=lambda warning: str(warning["volumes"]))


def _warning(group: Sequence[VolumeRecord]) -> dict[str, Any]:
    return {
        "kind": "same_pixels_under_two_subjects",
        "volumes": sorted(one.id for one in group),
        "subjects": sorted({one.subject for one in group}),
        "splits": sorted({one.split for one in group if one.split}),
    }
