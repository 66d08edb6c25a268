"""Several dataset folders as one, for pretraining: splits hold for patients across all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from medmim.data.dataset.channels import select_channels
from medmim.data.dataset.duplicate_patients import MAX_IMAGES, find_look_alike_patients, find_similar_pairs
from medmim.data.dataset.manifest import Dataset, Split, VolumeRecord, content_hash, read_dataset
from medmim.data.dataset.splits import Partition, partition
from medmim.errors import UsageError, counted

_STRICTEST: tuple[Split, ...] = ("test", "val", "train")


@dataclass(frozen=True)
class DatasetUnion:
    """Datasets that a run uses together.

    Attributes:
        dataset: all cases, those of several datasets with absolute paths.
        partition: their splits, or those of a fold.
        hashes: content hash of each dataset.
        place: for several datasets, the index of the dataset of each volume, by id.
    """

    dataset: Dataset
    partition: Partition
    hashes: tuple[str, ...]
    place: dict[str, int]

    def weights(self, volumes: Sequence[VolumeRecord], relative: Sequence[float]) -> list[float] | None:
        """Return the relative frequency of each volume, so that datasets are drawn in given proportions.

        Args:
            relative: weight of each dataset; empty: each volume is drawn equally often (None).
        """
        if not relative:
            return None
        if len(relative) != len(self.hashes):
            raise UsageError(
                f"data_weights: expected one number per dataset ({len(self.hashes)}), got {len(relative)}"
            )
        places = [self.place.get(volume.id, 0) for volume in volumes]
        return [relative[place] / places.count(place) for place in places]


def read_datasets(
    roots: Sequence[Path], *, fold: int | None, channels: Sequence[str] = (), log: Callable[[str], None]
) -> DatasetUnion:
    """Read datasets and join them.

    A patient of a validation or test split of any dataset, by key, by equal voxels or by an image that may be
    an altered copy, is held out in all.
    With a fold, each dataset is divided on its own, as fine-tuning on it divides it.

    Args:
        fold: fold to hold out, or None: the splits of the datasets.
        channels: of the cases, as for `select_channels`; empty: one volume each.
        log: receives the number of volumes that are held out or left out because of another dataset.

    Raises:
        DataError: if a folder is no dataset, or no visit has all channels.
    """
    datasets = [read_dataset(root) for root in roots]
    hashes = tuple(one.info.content_hash for one in datasets)
    whole, place = _joined(datasets, fold, log) if len(datasets) > 1 else (datasets[0], {})
    dataset = select_channels(whole, channels, log)
    fold = None if place else fold  # several datasets have been divided by it already
    divided = partition(whole, fold=fold, volumes=dataset.volumes)
    return DatasetUnion(dataset, divided, hashes, place)


def _joined(
    datasets: Sequence[Dataset], fold: int | None, log: Callable[[str], None]
) -> tuple[Dataset, dict[str, int]]:
    """Return several datasets as one, and the index of the dataset of each volume."""
    rows: dict[str, VolumeRecord] = {}
    place: dict[str, int] = {}
    for number, dataset in enumerate(datasets):
        for volume in _placed(dataset, fold):
            if volume.id not in rows or _rank(volume) < _rank(rows[volume.id]):
                rows[volume.id] = volume
                place.setdefault(volume.id, number)
    alike, warnings = _copies(list(rows.values()), place)
    volumes, moved = _held_out_together(list(rows.values()), alike)
    patients = len({volume.subject for volume in volumes})
    log(
        f"{counted(len(datasets), 'dataset')}: {counted(len(volumes), 'volume')} of "
        f"{counted(patients, 'patient')}"
    )
    if moved:
        log(
            f"held out: {counted(moved, 'volume')}, because another dataset holds out their patient or a copy"
        )
    for warning in warnings:
        log(f"warning: {warning}")
    info = datasets[0].info.model_copy(
        update={
            "name": "+".join(one.info.name for one in datasets),
            "content_hash": content_hash(volumes),
            "label_names": datasets[0].info.label_names
            if all(one.info.label_names == datasets[0].info.label_names for one in datasets)
            else {},
        }
    )
    return Dataset(datasets[0].root, info, tuple(volumes)), place


def _copies(
    volumes: Sequence[VolumeRecord], place: Mapping[str, int]
) -> tuple[list[tuple[VolumeRecord, VolumeRecord]], list[str]]:
    """Return pairs of images of two datasets that may be altered copies, and warnings."""
    if len(volumes) > MAX_IMAGES:
        return [], [f"altered copies in other datasets were not searched for: more than {MAX_IMAGES} volumes"]
    groups: dict[int, list[VolumeRecord]] = {}
    for volume in volumes:
        groups.setdefault(place[volume.id], []).append(volume)
    pairs = [pair for one, two in combinations(groups.values(), 2) for pair in find_similar_pairs(one, two)]
    warnings = [f"{counted(len(pairs), 'pair')} of images of two datasets may be altered copies"] * bool(
        pairs
    )
    if missing := sum(volume.perceptual_hash is None for volume in volumes):
        warnings.append(
            f"altered copies in other datasets were not searched for among {counted(missing, 'volume')} "
            "without a perceptual hash: very small, or ingested before 0.2.0"
        )
    for alike in find_look_alike_patients(volumes):
        warnings.append(
            f"{counted(alike['patients'], 'patient')} whose identifiers differ only in case, punctuation or "
            f"leading zeros, {counted(alike['divided'], 'group')} of them in several splits"
        )
    return pairs, warnings


def _placed(dataset: Dataset, fold: int | None) -> list[VolumeRecord]:
    """Return the volumes of a dataset with absolute paths and the split of the fold."""
    divided, root = partition(dataset, fold=fold), dataset.root.resolve()
    return [
        volume.model_copy(
            update={
                "image": str(root / volume.image),
                "label": str(root / volume.label) if volume.label else None,
                "split": split,
            }
        )
        for split, volumes in zip(_STRICTEST, (divided.test, divided.val, divided.train), strict=True)
        for volume in volumes
    ]


def _held_out_together(
    volumes: Sequence[VolumeRecord], alike: Sequence[tuple[VolumeRecord, VolumeRecord]]
) -> tuple[list[VolumeRecord], int]:
    """Give a patient's volumes the strictest split; equal or similar voxels make two keys one patient."""
    keys = {volume.id: _keys(volume) for volume in volumes}
    for number, pair in enumerate(alike):
        for volume in pair:
            keys[volume.id].append(f"pair {number}")
    strictest: dict[str, Split] = {}
    for volume in sorted(volumes, key=_rank):
        for key in keys[volume.id]:
            strictest.setdefault(key, volume.split or "train")
    changed = True
    while changed:  # a copy's other key may hold out further volumes
        changed = False
        for volume in volumes:
            split = min((strictest[key] for key in keys[volume.id]), key=_STRICTEST.index)
            for key in keys[volume.id]:
                changed |= strictest[key] != split
                strictest[key] = split
    found = [volume.model_copy(update={"split": strictest[volume.subject]}) for volume in volumes]
    return found, sum(new.split != old.split for new, old in zip(found, volumes, strict=True))


def _keys(volume: VolumeRecord) -> list[str]:
    return [volume.subject, *([volume.pixels_sha256] if volume.pixels_sha256 else [])]


def _rank(volume: VolumeRecord) -> int:
    return _STRICTEST.index(volume.split or "train")
