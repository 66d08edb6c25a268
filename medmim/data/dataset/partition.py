"""Partition of a dataset into train, val and test by its own splits or by folds; subsets of patients."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from medmim.data.dataset.manifest import Dataset, Split, VolumeRecord, digest_of
from medmim.data.dataset.splits import folds
from medmim.errors import DataError, counted

FOLDS = 5


@dataclass(frozen=True)
class Partition:
    """Volumes of train, val and test; every patient is in one of them only.

    Attributes:
        train: used for gradients.
        val: used for model selection and monitoring.
        test: evaluated once, at the end.
    """

    train: tuple[VolumeRecord, ...]
    val: tuple[VolumeRecord, ...]
    test: tuple[VolumeRecord, ...]

    @property
    def digest(self) -> str:
        """Hash of the test split; scores with equal digests are comparable."""
        return digest_of(sorted(volume.id for volume in self.test))


def partition(
    dataset: Dataset,
    *,
    fold: int | None,
    usable: Callable[[VolumeRecord], bool] = lambda volume: True,
    volumes: Sequence[VolumeRecord] | None = None,
) -> Partition:
    """Partition a dataset.

    Args:
        fold: fold of the annotated patients to test on; None: the dataset's own splits.
        volumes: volumes to partition; None: those of the dataset.
    """
    included = tuple(volume for volume in volumes or dataset.volumes if usable(volume))
    if fold is None:
        split: dict[str, Split] = {volume.subject: volume.split or "train" for volume in dataset.volumes}
    else:
        split = _by_fold(dataset, fold)
    chosen = {
        name: tuple(volume for volume in included if split[volume.subject] == name)
        for name in ("train", "val", "test")
    }
    return Partition(**chosen)


def limit_patients(
    volumes: tuple[VolumeRecord, ...],
    *,
    count: int | None,
    share: float | None,
    classes_of: Callable[[VolumeRecord], frozenset[str]] = lambda volume: frozenset(),
) -> tuple[VolumeRecord, ...]:
    """Keep the volumes of some patients; smaller subsets are contained in larger ones, on every machine.

    Every class gets one patient before any gets a second; then classes keep their frequencies.

    Args:
        count: number of patients, or
        share: fraction of the patients, at least one patient.

    Raises:
        DataError: if there are fewer patients than requested.
    """
    subjects = _ranked(volumes, classes_of)
    if share is not None:
        count = max(1, math.floor(share * len(subjects) + 0.5))
    if count is None:
        return volumes
    if count > len(subjects):
        raise DataError(
            f"--num-labelled {count}: the training split has only "
            f"{counted(len(subjects), 'labelled patient')}",
            reason="too_few_labels",
        )
    kept = set(subjects[:count])
    return tuple(volume for volume in volumes if volume.subject in kept)


def patient_digest(subject: str) -> str:
    """Return an irreversible pseudonym of a patient for reports."""
    return hashlib.sha256(f"report/{subject}".encode()).hexdigest()[:8]


def _by_fold(dataset: Dataset, fold: int) -> dict[str, Split]:
    """Assign one fold of annotated patients to test, an eighth of the others to val, the rest to train."""
    place = folds({volume.subject for volume in dataset.annotated}, FOLDS)
    others = sorted((subject for subject, number in place.items() if number != fold), key=_order)
    val = set(others[: max(1, len(others) // 8)])
    return {
        volume.subject: "test"
        if place.get(volume.subject) == fold
        else ("val" if volume.subject in val else "train")
        for volume in dataset.volumes
    }


def _ranked(
    volumes: tuple[VolumeRecord, ...], classes_of: Callable[[VolumeRecord], frozenset[str]]
) -> list[str]:
    """Return the patients in the order in which subsets include them."""
    shown: dict[str, set[str]] = {}
    for volume in volumes:
        shown.setdefault(volume.subject, set()).update(classes_of(volume))
    often = Counter(name for names in shown.values() for name in names)
    groups: dict[str, list[str]] = {}
    for subject in sorted(shown, key=_order):
        # a patient with several classes counts for the rarest one
        rarest = min(shown[subject], key=lambda name: (often[name], name), default="")
        groups.setdefault(rarest, []).append(subject)
    places = {
        # one patient of each class comes first
        subject: ((place + 0.5) / len(group) if place or not name else 0.0, often[name], _order(subject))
        for name, group in groups.items()
        for place, subject in enumerate(group)
    }
    return sorted(places, key=lambda subject: places[subject])


def _order(subject: str) -> str:
    return hashlib.sha256(f"labelled/{subject}".encode()).hexdigest()
