"""The outputs of `medmim predict`, by task: table rows, a label volume and a picture of each volume."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medmim import files
from medmim.data.dataset.boxes import map_boxes
from medmim.data.dataset.manifest import VolumeRecord
from medmim.data.formats.nifti import Image
from medmim.data.formats.write_volume import encode_image
from medmim.data.loading.preprocess import PreprocessedVolume
from medmim.errors import counted
from medmim.training.evaluation.detection_metrics import UNCHOSEN
from medmim.training.evaluation.inference import labels_of, labels_on_source_grid, resample_to, segment
from medmim.training.evaluation.panels import FigureRow, boxed_row, caption_row, panel, radiological_slice
from medmim.training.evaluation.postprocessing import apply_postprocessing
from medmim.training.tasks.base import EvaluationContext
from medmim.training.tasks.multilabel import predicted_words
from medmim.training.tasks.segmentation import Segmentation
from medmim.training.tasks.trained_model import TrainedModel

_SHOWN = 5
_ENDS = tuple(f"{end}_{axis}" for end in ("first", "last") for axis in "xyz")
_BOX_COLUMNS = (
    *("volume", "class", "score"),
    *(f"{end}_{unit}" for unit in ("voxel", "mm") for end in _ENDS),
    *("first_slice", "last_slice", "first_file", "last_file"),
)


@dataclass(frozen=True)
class VolumePrediction:
    """The prediction for one volume.

    Attributes:
        rows: rows of the task's table.
        label: file of the label volume, where there is one.
    """

    rows: Sequence[Mapping[str, Any]]
    summary: str
    label: Path | None = None


@dataclass(frozen=True)
class Extras:
    """What is written besides the predictions.

    Attributes:
        probabilities: write the class probabilities of segmentations.
        pictures: number of volumes with a picture; one takes longer than the prediction of a 2D image.
        min_score: minimum score of the boxes written; None: that of each class, chosen on validation cases.
        max_memory_gb: for the probabilities of a volume; None: half of what is free.
    """

    probabilities: bool = False
    pictures: int = 100
    min_score: float | None = None
    max_memory_gb: float | None = None


@dataclass(frozen=True)
class OutputPlace:
    """Where the files of one volume are written: `<out>/<kind>/<name>.<ending>`.

    Attributes:
        name: name of the files without an ending; may contain folders.
        draw: write the picture, which takes longer than segmenting a 2D image.
        extras: what else is written.
    """

    out: Path
    name: str
    draw: bool = True
    extras: Extras = Extras()

    def file(self, kind: str, ending: str) -> Path:
        """Return the path of a file."""
        return self.out / kind / f"{self.name}.{ending}"


@dataclass(frozen=True)
class OutputFile:
    """The output of a task: name and first columns of its table, and the function that predicts a volume."""

    table: str
    columns: tuple[str, ...]
    predict: Callable[[TrainedModel, EvaluationContext, VolumeRecord, OutputPlace], VolumePrediction]


def write_label_prediction(
    trained: TrainedModel, context: EvaluationContext, volume: VolumeRecord, place: OutputPlace
) -> VolumePrediction:
    """Segment a volume; write the labels on the grid of its file, and a picture; return each class's size."""
    prepared = context.volumes(volume)
    probabilities = _mean_probabilities(trained, context, volume, place.extras.max_memory_gb)
    voxel_ml = _voxel_ml(prepared.stored_affine)
    rules = context.tuned.get("postprocessing", {})
    regions = context.plan.regions
    found = labels_on_source_grid(probabilities, prepared, volume.shape, regions)
    labels = trained.coded(apply_postprocessing(found, context.names, rules, voxel_ml, regions))
    label = place.file("segmentations", "nii.gz")
    files.write_bytes(label, encode_image(Image(labels, prepared.stored_affine)))
    names = [context.names.get(number, "") for number in range(1, max(context.names) + 1)]
    if place.extras.probabilities:
        _write_probabilities(place, probabilities, prepared)
    if place.draw:
        shown = labels_of(probabilities, regions).numpy()
        shown = apply_postprocessing(shown, context.names, rules, _voxel_ml(prepared.affine), regions)
        _draw(place, [_labelled(prepared, shown)], names)
    known = volume.flags.get("spacing") != "unknown"
    rows, sizes = [], []
    for number, class_name in sorted(context.names.items()):
        code = trained.codes[number]
        count = int(np.count_nonzero(labels == code))
        size = round(count * voxel_ml, 4) if known else ""
        row = {"volume": volume.id, "class": class_name, "number": code, "voxels": count, "ml": size}
        rows.append(row)
        text = f"{float(f'{count * voxel_ml:.3g}'):g} ml" if known else counted(count, "voxel")
        sizes.append(f"{class_name} {text}")
    return VolumePrediction(rows, ", ".join(sizes), label)


def _voxel_ml(affine: np.ndarray) -> float:
    return abs(float(np.linalg.det(affine[:3, :3]))) / 1000


def write_image_prediction(
    trained: TrainedModel, context: EvaluationContext, volume: VolumeRecord, place: OutputPlace
) -> VolumePrediction:
    """Predict the class (with all probabilities), classes or number of a volume; write a picture."""
    [row] = trained.task.evaluate(trained.network, [volume], context, final=False)
    shares: dict[str, float] = row.get("probabilities", {})
    columns: dict[str, Any] = {f"p_{name}": round(value, 6) for name, value in shares.items()}
    if trained.kind in ("classify", "ordinal"):
        best, share = max(shares.items(), key=lambda one: one[1])
        columns, summary = {"class": best, **columns}, f"{best} {share:.0%}"
    elif trained.kind == "multilabel":
        columns, summary = {"classes": "|".join(row["found"]), **columns}, predicted_words(row)
    else:
        value, quantity = float(row["predicted"]), context.names[0]
        columns, summary = {"quantity": quantity, "value": round(value, 6)}, f"{quantity} {value:.4g}"
    if place.draw:
        prepared = context.volumes(volume)
        _draw(place, [caption_row(prepared.image[0], axis=prepared.slice_axis, text=summary)])
    return VolumePrediction([{"volume": volume.id, **columns}], summary)


def write_box_prediction(
    trained: TrainedModel, context: EvaluationContext, volume: VolumeRecord, place: OutputPlace
) -> VolumePrediction:
    """Detect boxes in a volume; write a picture; return the boxes.

    These are the boxes above the threshold tuned on validation cases, or above `min_score`: in voxels of the
    file, half-open, and their two corners in mm (LPS, as in DICOM; empty for images of unknown spacing), with
    the keys of the first and last slice that they intersect. `trace_to_slices` adds the source files of these
    slices.
    """
    prepared, least = context.volumes(volume), place.extras.min_score
    thresholds = context.tuned.get("thresholds", {})
    found = [
        (str(name), float(score), np.array(box, dtype=np.float64))
        for row in trained.task.evaluate(trained.network, [volume], context, final=False)
        for name, score, *box in row["found"]
        if score >= (thresholds.get(name, UNCHOSEN) if least is None else least)
    ]
    found.sort(key=lambda one: -one[1])
    if place.draw:
        _draw(place, [_boxed(prepared, found)])
    rows = [_box_row(volume, prepared, *one) for one in found]
    return VolumePrediction(
        rows, f"{counted(len(rows), 'box', 'boxes')}{f', best {found[0][1]:.2f}' if found else ''}"
    )


def trace_to_slices(prediction: VolumePrediction, files_of: Mapping[str, int]) -> VolumePrediction:
    """Return a prediction of boxes with the files of their first and last slice.

    `files_of` maps the key of a slice to the number of its file in the sorted list of source files.
    """
    rows = [
        {**row, **{f"{end}_file": files_of.get(str(row[f"{end}_slice"]), "") for end in ("first", "last")}}
        for row in prediction.rows
    ]
    return replace(prediction, rows=rows)


OUTPUTS: dict[str, OutputFile] = {
    "classify": OutputFile("classes.csv", ("volume", "class"), write_image_prediction),
    "detect": OutputFile("boxes.csv", _BOX_COLUMNS, write_box_prediction),
    "multilabel": OutputFile("classes.csv", ("volume", "classes"), write_image_prediction),
    "ordinal": OutputFile("classes.csv", ("volume", "class"), write_image_prediction),
    "regress": OutputFile("values.csv", ("volume", "quantity", "value"), write_image_prediction),
    "segment": OutputFile(
        "volumes.csv", ("volume", "class", "number", "voxels", "ml"), write_label_prediction
    ),
}


def _mean_probabilities(
    trained: TrainedModel, context: EvaluationContext, volume: VolumeRecord, max_memory_gb: float | None
) -> torch.Tensor:
    """Return the mean probabilities of all members of an ensemble, on the preprocessed grid of the first."""
    members = [
        (trained, context),
        *((other, other.context(context.volumes.root)) for other in trained.others),
    ]
    total = None
    for member, own in members:
        assert isinstance(member.task, Segmentation)
        prepared = own.volumes(volume)
        found = segment(
            member.network,
            prepared,
            own.plan,
            precision=own.precision,
            mirror=member.task.mirror,
            progress=context.progress,
            classes=len(own.names) + 1,
            max_memory_gb=max_memory_gb,
        )
        found = resample_to(found, prepared, context.volumes(volume))
        total = found if total is None else total.add_(found)
    assert total is not None
    return total.div_(len(members))


def _write_probabilities(
    place: OutputPlace, probabilities: torch.Tensor, prepared: PreprocessedVolume
) -> None:
    """Write .npz: `probabilities` (channels, x, y, z) in float16 on the preprocessed grid, and its `affine`.

    Channels are background and the classes, or the regions of the model; the affine maps voxels to RAS mm.
    """
    stream = io.BytesIO()
    half = probabilities.numpy().astype(np.float16)
    np.savez_compressed(stream, probabilities=half, affine=prepared.affine)
    files.write_bytes(place.file("probabilities", "npz"), stream.getvalue())


def _draw(place: OutputPlace, rows: Sequence[FigureRow], names: Sequence[str] = ()) -> None:
    png = panel(rows, ["prediction"], title=place.name, names=names)
    files.write_bytes(place.file("pictures", "png"), png)


def _labelled(prepared: PreprocessedVolume, labels: np.ndarray) -> FigureRow:
    """Return the slice with the largest labelled area, or the middle slice without labels."""
    axis = prepared.slice_axis
    others = tuple(other for other in range(3) if other != axis)
    counts = (labels > 0).sum(axis=others)
    index = int(counts.argmax()) if counts.any() else labels.shape[axis] // 2
    image = radiological_slice(prepared.image[0], axis=axis, index=index)
    return FigureRow([image], [radiological_slice(torch.from_numpy(labels), axis=axis, index=index)])


def _boxed(prepared: PreprocessedVolume, found: Sequence[tuple[str, float, np.ndarray]]) -> FigureRow:
    """Return the slice through the middle of the best box, with the best boxes that it intersects."""
    axis, length = prepared.slice_axis, prepared.image.shape[prepared.slice_axis + 1]
    boxes = [
        (map_boxes(box[None], prepared.stored_affine, prepared.affine)[0], f"{name} {score:.2f}")
        for name, score, box in found
    ]
    middle = (boxes[0][0][axis] + boxes[0][0][axis + 3]) / 2 if boxes else length / 2
    index = min(max(math.floor(middle), 0), length - 1)
    shown = [(box, 0, word) for box, word in boxes if box[axis] <= index + 0.5 < box[axis + 3]]
    return boxed_row(prepared.image[0], axis=axis, index=index, boxes=shown[:_SHOWN])


def _box_row(
    volume: VolumeRecord, prepared: PreprocessedVolume, name: str, score: float, box: np.ndarray
) -> dict[str, Any]:
    affine, size = prepared.stored_affine, np.array(volume.shape)
    box = np.concatenate([box[:3].clip(0, size), box[3:].clip(0, size)])  # the network sees padded images
    corners = (box.reshape(2, 3) - 0.5) @ affine[:3, :3].T + affine[:3, 3]  # voxel i spans i - 1/2 to i + 1/2
    known = volume.flags.get("spacing") != "unknown"
    lps = (corners * [-1.0, -1.0, 1.0]).ravel().round(3).tolist() if known else [""] * len(_ENDS)
    last = len(volume.slices) - 1
    ends = (math.floor(box[2] + 1e-3), math.ceil(box[5] - 1e-3) - 1)
    keys = [volume.slices[min(max(end, 0), last)] if volume.slices else "" for end in ends]
    return {
        "volume": volume.id,
        "class": name,
        "score": round(score, 4),
        **{f"{end}_voxel": value for end, value in zip(_ENDS, box.round(3).tolist(), strict=True)},
        **{f"{end}_mm": value for end, value in zip(_ENDS, lps, strict=True)},
        "first_slice": keys[0],
        "last_slice": keys[1],
        "first_file": "",
        "last_file": "",
    }
