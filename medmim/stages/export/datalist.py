"""A dataset folder as a datalist, the JSON file from which MONAI reads images and labels."""

from __future__ import annotations

from typing import Any

from medmim import __version__
from medmim.data.dataset.manifest import Dataset, VolumeRecord


def datalist(dataset: Dataset) -> dict[str, Any]:
    """Return MONAI's datalist of a dataset folder: images and labels by split, with relative paths."""
    splits = {"training": "train", "validation": "val", "test": "test"}
    names = {str(number): name for number, name in dataset.info.label_names.items()}
    lists = {
        key: [_entry(volume) for volume in dataset.volumes if volume.split == split]
        for key, split in splits.items()
    }
    return {
        "name": dataset.info.name,
        "description": f"made by medmim {__version__}; content {dataset.info.content_hash}",
        "tensorImageSize": "3D",
        "modality": {"0": "/".join(sorted({volume.modality for volume in dataset.volumes}))},
        "labels": {"0": "background", **names},
        "numTraining": len(lists["training"]),
        "numTest": len(lists["test"]),
        **lists,
    }


def _entry(volume: VolumeRecord) -> dict[str, Any]:
    entry: dict[str, Any] = {"image": volume.image, "subject": volume.subject}
    entry |= {"label": volume.label} if volume.label else {}
    entry |= {"target": volume.target} if volume.target is not None else {}
    if volume.boxes:
        entry |= {"box": [list(one.box) for one in volume.boxes]}
        entry |= {"box_class": [one.name for one in volume.boxes]}
    return entry
