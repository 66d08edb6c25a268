"""What the classes of a dataset's labels are called: by the dataset, or by their number."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from medmim.data.manifest import Dataset, Volume
from medmim.data.prepare import Volumes
from medmim.errors import DataError


def label_names(dataset: Dataset, train: Sequence[Volume], volumes: Volumes) -> dict[int, str]:
    """Return the dataset's names, and `label_<value>` for values that have none."""
    names = dict(dataset.info.label_names)
    for volume in train:
        label = volumes(volume).label
        if label is not None:
            names |= {
                value: f"label_{value}"
                for value in torch.unique(label).tolist()
                if value and value not in names
            }
    if not names:
        raise DataError("all training labels are empty: nothing to learn", reason="label_empty")
    return names
