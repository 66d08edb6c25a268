"""Who trains, validates and tests: the dataset's own splits or one of five folds; labels by patient."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

from medmim.data.manifest import Dataset, Split, Volume, digest_of
from medmim.data.splits import folds
from medmim.errors import DataError

FOLDS = 5


@dataclass(frozen=True)
class Partition:
    """Volumes by what they are for; no patient is in two of the three.

    Attributes:
        train: for gradients.
        val: for choosing and watching.
        test: for one report at the end.
    """

    train: tuple[Volume, ...]
    val: tuple[Volume, ...]
    test: tuple[Volume, ...]

    @property
    def digest(self) -> str:
        """Hash of who tests; equal digests, comparable scores."""
        return digest_of(sorted(volume.id for volume in self.test))


def partition(dataset: Dataset, *, fold: int | None, labelled_only: bool) -> Partition:
    """Divide a dataset.

    Args:
        dataset: the dataset.
        fold: test on this of five folds of the labelled patients; None: the dataset's own splits.
        labelled_only: leave out volumes without a label.
    """
    volumes = dataset.labelled if labelled_only else dataset.volumes
    if fold is None:
        split: dict[str, Split] = {volume.subject: volume.split or "train" for volume in dataset.volumes}
    else:
        split = _by_fold(dataset, fold)
    chosen = {
        name: tuple(volume for volume in volumes if split[volume.subject] == name)
        for name in ("train", "val", "test")
    }
    return Partition(**chosen)


def limit_patients(
    volumes: tuple[Volume, ...], *, count: int | None, share: float | None
) -> tuple[Volume, ...]:
    """Keep the volumes of some patients: the ten are among the twenty, on every machine.

    Args:
        volumes: labelled training volumes.
        count: number of patients, or
        share: share of the patients, at least one.

    Raises:
        DataError: if there are fewer patients than asked for.
    """
    subjects = sorted({volume.subject for volume in volumes}, key=_order)
    if share is not None:
        count = max(1, math.floor(share * len(subjects) + 0.5))
    if count is None:
        return volumes
    if count > len(subjects):
        raise DataError(
            f"--labelled {count}: only {len(subjects)} labelled patients are in the training split",
            reason="too_few_labels",
        )
    kept = set(subjects[:count])
    return tuple(volume for volume in volumes if volume.subject in kept)


def patient_digest(subject: str) -> str:
    """Return a name for a patient in reports: cannot be turned back into the dataset's key."""
    return hashlib.sha256(f"report/{subject}".encode()).hexdigest()[:8]


def _by_fold(dataset: Dataset, fold: int) -> dict[str, Split]:
    """Test one fold of the labelled patients, validate on an eighth of the others; the unlabelled train."""
    place = folds({volume.subject for volume in dataset.labelled}, FOLDS)
    others = sorted((subject for subject, number in place.items() if number != fold), key=_order)
    val = set(others[: max(1, len(others) // 8)])
    return {
        volume.subject: "test"
        if place.get(volume.subject) == fold
        else ("val" if volume.subject in val else "train")
        for volume in dataset.volumes
    }


def _order(subject: str) -> str:
    return hashlib.sha256(f"labelled/{subject}".encode()).hexdigest()
