"""A dataset folder for other programs: MONAI's datalist, or an nnU-Net v2 raw dataset.

dataset.json           of the raw dataset
imagesTr, labelsTr     annotated volumes of train and val
imagesTs, labelsTs     those of test, which nnU-Net never trains on
splits_final.json      one fold: train and val of the dataset; it belongs in nnU-Net's preprocessed folder
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medmim import __version__, files
from medmim.data.dataset.channels import channels_of
from medmim.data.dataset.manifest import Dataset, VolumeRecord
from medmim.data.formats.nifti import Image
from medmim.data.formats.write_volume import encode_image
from medmim.data.loading.recorded_files import read_recorded, refuse_changed
from medmim.errors import DataError, UsageError

_ENDING = ".nii.gz"
_RESERVED = ("background", "ignore")
_FOLDER = re.compile(r"Dataset\d{3}_\w+")


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


def write_raw_dataset(dataset: Dataset, folder: Path, staging: Path, channels: tuple[str, ...]) -> None:
    """Write the annotated cases of a dataset in the layout of nnU-Net, which reads the name of `folder`.

    Raises:
        UsageError: for a folder name that nnU-Net does not accept.
        DataError: if there are no label volumes with names, or a volume contains an unknown code.
    """
    if not _FOLDER.fullmatch(folder.name):
        raise UsageError(
            f"--out '{folder}': expected a folder name such as Dataset001_Lung, as nnU-Net requires, "
            f"got '{folder.name}'"
        )
    values = _label_values(dataset)
    cases = dataset.labelled
    if len(values) < 2 or not any(case.split != "test" for case in cases):
        raise DataError(
            "expected training volumes with named labels, as nnU-Net requires; got "
            f"{len(cases)} label volumes and {len(dataset.info.label_names)} names",
            reason="no_labels",
        )
    for case in cases:
        part = "Ts" if case.split == "test" else "Tr"
        for number, channel in enumerate(channels_of(case)):
            place = staging / f"images{part}" / f"{case.id}_{number:04d}{_ENDING}"
            _copy(dataset.root / channel.image, place, channel.sha256)
        _write_label(dataset, case, staging / f"labels{part}" / f"{case.id}{_ENDING}", values)
    files.write_json(staging / "dataset.json", _raw_description(dataset, channels))
    split = {
        "train": sorted(case.id for case in cases if case.split not in ("val", "test")),
        "val": sorted(case.id for case in cases if case.split == "val"),
    }
    files.write_json(staging / "splits_final.json", [split])


def _raw_description(dataset: Dataset, channels: tuple[str, ...]) -> dict[str, Any]:
    """Return the content of `dataset.json`; all images are read in RAS orientation, as by medmim."""
    cases, info = dataset.labelled, dataset.info
    modalities = "/".join(sorted({case.modality for case in cases}))
    names: dict[str, int] = {"background": 0}
    for number, code in enumerate(info.label_codes[1:], start=1):
        name = info.label_names.get(code, str(code))
        names[f"{name} {code}" if name in (*names, *_RESERVED) else name] = number
    if info.ignore_label is not None:
        names["ignore"] = len(names)
    return {
        "name": info.name,
        "description": f"made by medmim {__version__}; content {info.content_hash}",
        "channel_names": {str(number): name for number, name in enumerate(channels or (modalities,))},
        "labels": names,
        "numTraining": sum(case.split != "test" for case in cases),
        "file_ending": _ENDING,
        "overwrite_image_reader_writer": "NibabelIOWithReorient",
    }


def _label_values(dataset: Dataset) -> dict[int, int]:
    """Return nnU-Net's label of each code: consecutive, the ignored label last."""
    info = dataset.info
    values = {code: number for number, code in enumerate(info.label_codes)}
    return values if info.ignore_label is None else {**values, info.ignore_label: len(values)}


def _write_label(dataset: Dataset, case: VolumeRecord, place: Path, values: Mapping[int, int]) -> None:
    source = dataset.root / str(case.label)
    image = read_recorded(source, case.label_sha256)
    codes, index = np.unique(np.rint(image.array).astype(np.int64), return_inverse=True)
    unknown = [int(code) for code in codes if int(code) not in values]
    if unknown:
        raise DataError(
            f"volume {case.id}: its label contains the codes {unknown}, which dataset.json does not name; "
            "ingest the dataset again with --label-name CODE=NAME",
            reason="unknown_label_code",
        )
    labels = [values[int(code)] for code in codes]
    if labels == codes.tolist():
        _copy(source, place, case.label_sha256)
        return
    recoded = np.array(labels, dtype=np.uint16)[index].reshape(image.array.shape)
    files.write_bytes(place, encode_image(Image(recoded, image.affine)), lasting=False)


def _copy(source: Path, place: Path, sha256: str | None) -> None:
    try:
        refuse_changed(source, sha256)
        content = source.read_bytes()
    except OSError as error:
        raise DataError(
            f"'{source}' cannot be read ({error.strerror}): check the dataset with `medmim verify`",
            reason="damaged_dataset",
        ) from error
    files.write_bytes(place, content, lasting=False)
