"""Folders of label maps: their files by case, the classes of the labels, and what a tool's values mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from medmim.data.formats.images import PICTURE_SUFFIXES, is_picture
from medmim.data.formats.labels import fit_label, load_label
from medmim.data.formats.nifti import Image
from medmim.data.ingest.context import stem_of
from medmim.data.ingest.dataset_json import read_dataset_json
from medmim.errors import DataError, UsageError, counted
from medmim.stages.compare_predictions.cases import PredictionSet, Progress, matched

_VOLUMES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".mgz", ".mgh")
_KINDS = "NIfTI, NRRD, MetaImage, MGH or PNG"
_IGNORE = "ignore"  # nnU-Net's name of voxels without a known label


@dataclass(frozen=True)
class LabelFolder:
    """The labels.

    Attributes:
        files: name of a case → file.
        classes: code → name, for codes that occur in some label.
        ignored: codes of voxels that are left out.
        lesions: class → median number of its components in cases that have it.
    """

    files: Mapping[str, Path]
    classes: Mapping[int, str]
    ignored: tuple[int, ...]
    lesions: Mapping[str, float]


def read_label(path: Path) -> Image:
    """Read a true label map as integers."""
    try:
        found = load_label(path, spacing_mm=1.0).image
        return fit_label(found, found)
    except DataError as error:
        raise DataError(f"label '{stem_of(path)}': {error}", reason=error.reason) from error


def read_labels(folder: Path, progress: Progress) -> tuple[LabelFolder, list[str]]:
    """Read all labels once: their codes, and how many components each class has."""
    paths = label_files(folder)
    notes: list[str] = []
    counts: dict[int, list[int]] = {}
    for number, path in enumerate(paths.values(), start=1):
        progress("labels", number, len(paths))
        array = read_label(path).array
        around = ndimage.generate_binary_structure(array.ndim, array.ndim)
        for code in np.unique(array[array > 0]).tolist():
            counts.setdefault(code, []).append(int(ndimage.label(array == code, around)[1]))
    names = names_of(folder)
    ignored = tuple(code for code, name in names.items() if name == _IGNORE)
    classes = {code: names.get(code, f"label {code}") for code in sorted(counts) if code not in ignored}
    if not classes:
        raise DataError(f"--labels: expected labels with a value above 0, got {len(paths)} empty ones")
    absent = [name for code, name in names.items() if code not in counts and code not in ignored]
    if absent:
        notes.append(f"no label contains {', '.join(absent)}: left out")
    if not names:
        notes.append("no dataset.json names the classes: they are compared by value")
    if any(map(is_picture, paths.values())):
        notes.append("pictures have no voxel spacing: distances are in pixels, volumes in 1000 pixels")
    lesions = {classes[code]: float(np.median(found)) for code, found in counts.items() if code in classes}
    return LabelFolder(paths, classes, ignored, lesions), notes


def label_files(folder: Path) -> dict[str, Path]:
    """Return the label maps below a folder by name; pictures only where there are no volumes."""
    if not folder.is_dir():
        raise UsageError(f"'{folder}': expected a folder of label maps ({_KINDS})")
    every = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    volumes = [path for path in every if path.name.lower().endswith(_VOLUMES)]
    chosen = volumes or [path for path in every if path.name.lower().endswith(PICTURE_SUFFIXES)]
    found = {stem_of(path): path for path in chosen}
    if not chosen:
        raise UsageError(
            f"'{folder}': expected label maps ({_KINDS}), got {counted(len(every), 'other file')}"
        )
    if len(found) < len(chosen):
        raise UsageError(
            f"'{folder}': expected one label map for each case, got {len(chosen) - len(found)} with the name "
            "of another"
        )
    return found


def names_of(folder: Path) -> dict[int, str]:
    """Return the names of codes from the dataset.json of the folder or of the one above; {} without one."""
    for place in (folder, folder.resolve().parent):
        if (place / "dataset.json").is_file():
            names = read_dataset_json(str(place / "dataset.json"))["label_names"]
            return {int(code): name for code, name in names.items()}
    return {}


def read_predictions(
    predictions: PredictionSet, truth: LabelFolder, *, named: Mapping[int, str]
) -> tuple[dict[int, int], dict[str, Path], list[str]]:
    """Return what each value of a set means in the labels, the file of each case, and notes.

    Values are matched by the names in both dataset.json; without names, by value.

    Raises:
        DataError: if classes have no counterpart, or no value of the predictions occurs in the labels.
    """
    files, notes = label_files(predictions.path), list[str]()
    pairs = matched(truth.files, files)
    extra = len(files) - len(pairs)
    if not pairs:
        raise DataError(
            f"{predictions.tool}: none of {counted(len(files), 'label map')} has the name of a label: "
            f"expected names such as '{next(iter(truth.files))}'; rename them"
        )
    if extra:
        notes = [*notes, f"{predictions.tool}: label maps without a label, not used: {extra}"]
    names = names_of(predictions.path)
    if named and names:
        meant = {name: code for code, name in truth.classes.items()}
        if lacking := sorted(meant.keys() - set(names.values())):
            raise DataError(
                f"{predictions.tool}: its dataset.json has no class {', '.join(lacking)}: expected the names "
                "of the labels' dataset.json; correct it, or remove it to compare by value"
            )
        codes = {code: meant[name] for code, name in names.items() if name in meant}
        if any(code != value for code, value in codes.items()):
            notes = [*notes, f"{predictions.tool}: classes are matched by name, as their values differ"]
    else:
        codes = {code: code for code in truth.classes}
    codes, more = _checked(predictions, codes, [files[name] for name in pairs.values()], truth)
    return codes, {case: files[name] for case, name in pairs.items()}, [*notes, *more]


def _checked(
    predictions: PredictionSet, codes: Mapping[int, int], paths: Sequence[Path], truth: LabelFolder
) -> tuple[dict[int, int], list[str]]:
    """Compare the values of a set with those that are expected."""
    values = sorted({int(value) for path in paths for value in _values(path)} - {0})
    strange = [value for value in values if value not in codes and value not in truth.ignored]
    if strange and len(strange) == len(values):
        if len(values) == 1 and len(truth.classes) == 1:  # 0 and 1 against 0 and 255
            [code] = truth.classes
            return {values[0]: code}, [
                f"{predictions.tool}: value {values[0]} is read as {code}, the only class"
            ]
        raise DataError(
            f"{predictions.tool}: its values {_listed(values)} do not occur in the labels "
            f"({_listed(sorted(truth.classes))}): name the classes of both in a dataset.json in each folder"
        )
    found = {code for value, code in codes.items() if value in values}
    absent = ", ".join(name for code, name in truth.classes.items() if code not in found)
    notes = []
    if strange:
        notes.append(f"values {_listed(strange)} are no class of the labels and count as background")
    if not values:
        notes.append("every label map is empty; check that these are its predictions")
    elif absent:
        notes.append(f"no label map contains {absent}; check that its values mean the same classes")
    return dict(codes), [f"{predictions.tool}: {note}" for note in notes]


def _values(path: Path) -> Iterator[float]:
    """Yield the values of a prediction; none of one that cannot be read, which counts as wrong later."""
    try:
        found = load_label(path, spacing_mm=1.0).image
        yield from np.unique(fit_label(found, found).array).tolist()
    except DataError:
        return


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values[:8])) + (" …" if len(values) > 8 else "")
