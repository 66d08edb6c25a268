"""Who trains, validates and tests: the dataset's own splits or one of five folds; labels by patient."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from medmim.data.dataset.manifest import Dataset, Split, VolumeRecord, digest_of
from medmim.data.dataset.splits import folds
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

    train: tuple[VolumeRecord, ...]
    val: tuple[VolumeRecord, ...]
    test: tuple[VolumeRecord, ...]

    @property
    def digest(self) -> str:
        """Hash of who tests; equal digests, comparable scores."""
        return digest_of(sorted(volume.id for volume in self.test))


def partition(
    dataset: Dataset,
    *,
    fold: int | None,
    usable: Callable[[VolumeRecord], bool] = lambda volume: True,
    volumes: Sequence[VolumeRecord] | None = None,
) -> Partition:
    """Divide a dataset.

    Args:
        dataset: the dataset.
        fold: test on this of five folds of the annotated patients; None: the dataset's own splits.
        usable: whether a volume takes part.
        volumes: what is divided; None: those of the dataset.
    """
    taking_part = tuple(volume for volume in volumes or dataset.volumes if usable(volume))
    if fold is None:
        split: dict[str, Split] = {volume.subject: volume.split or "train" for volume in dataset.volumes}
    else:
        split = _by_fold(dataset, fold)
    chosen = {
        name: tuple(volume for volume in taking_part if split[volume.subject] == name)
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
    """Keep the volumes of some patients: the ten are among the twenty, on every machine.

    Every class has a patient before any has a second; after that classes come as often as in all of them.

    Args:
        volumes: labelled training volumes.
        count: number of patients, or
        share: share of the patients, at least one.
        classes_of: the classes that a volume shows.

    Raises:
        DataError: if there are fewer patients than asked for.
    """
    subjects = _ranked(volumes, classes_of)
    if share is not None:
        count = max(1, math.floor(share * len(subjects) + 0.5))
    if count is None:
        return volumes
    if count > len(subjects):
        raise DataError(
            f"--num-labelled {count}: only {len(subjects)} labelled patients are in the training split",
            reason="too_few_labels",
        )
    kept = set(subjects[:count])
    return tuple(volume for volume in volumes if volume.subject in kept)


def patient_digest(subject: str) -> str:
    """Return a name for a patient in reports: cannot be turned back into the dataset's key."""
    return hashlib.sha256(f"report/{subject}".encode()).hexdigest()[:8]


def _by_fold(dataset: Dataset, fold: int) -> dict[str, Split]:
    """Test one fold of the annotated patients, validate on an eighth of the others; the others train."""
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
    """Return the patients in the order in which they are kept."""
    shown: dict[str, set[str]] = {}
    for volume in volumes:
        shown.setdefault(volume.subject, set()).update(classes_of(volume))
    often = Counter(name for names in shown.values() for name in names)
    groups: dict[str, list[str]] = {}
    for subject in sorted(shown, key=_order):
        # a patient with several classes counts for the rarest of them
        rarest = min(shown[subject], key=lambda name: (often[name], name), default="")
        groups.setdefault(rarest, []).append(subject)
    places = {
        # one patient of each class comes first; of those without any, none does
        subject: ((place + 0.5) / len(group) if place or not name else 0.0, often[name], _order(subject))
        for name, group in groups.items()
        for place, subject in enumerate(group)
    }
    return sorted(places, key=lambda subject: places[subject])


def _order(subject: str) -> str:
    return hashlib.sha256(f"labelled/{subject}".encode()).hexdigest()
