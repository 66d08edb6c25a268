"""Boxes of any detector in COCO's result format, scored against COCO annotations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medmim.data.dataset.splits import patient_digest
from medmim.data.formats.file_types import open_regular
from medmim.data.ingest.layout_rules import SubjectRule
from medmim.errors import DataError, UsageError, counted
from medmim.stages.compare_predictions.cases import PredictionSet, Row, ScoredPredictions, patients
from medmim.text_formats import parse_json

_MAX_BYTES = 1 << 29
_WHY = (
    "AP50 is tested; an image without a detection counts as one in which nothing was found, as COCO's format "
    "cannot tell it from a missing one"
)


def score_boxes(sets: Sequence[PredictionSet], labels: Path, subjects: SubjectRule) -> ScoredPredictions:
    """Score lists of {image_id, category_id, bbox, score} against images, annotations and categories.

    A box is (x, y, width, height), or (x, y, z, width, height, depth) in three dimensions.

    Raises:
        UsageError: for JSON of another form.
        DataError: for predictions of unknown images or categories only.
    """
    content = _read(labels)
    try:
        names = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
        images = {entry["id"]: str(entry["file_name"]) for entry in content["images"]}
        if (len(names), len(images)) != (len(content["categories"]), len(content["images"])):
            raise UsageError(f"--labels '{labels.name}': expected each id of an image and of a category once")
        truth: dict[Any, list[Any]] = {image: [] for image in images}
        crowds = 0
        for entry in content["annotations"]:
            if entry.get("iscrowd"):
                crowds += 1
            else:
                truth[entry["image_id"]].append([names[entry["category_id"]], *_corners(entry["bbox"])])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"--labels '{labels.name}': expected COCO's images, annotations (bbox, image_id, category_id) "
            "and categories"
        ) from error
    images = _names_of(images, labels)
    who, note = patients(list(images.values()), subjects)
    notes = [_WHY, note, *([f"crowd annotations are left out: {crowds}"] if crowds else [])]
    rows: list[tuple[Row, ...]] = []
    for one in sets:
        found, said = _detections(one, names, truth)
        notes += said
        rows.append(
            tuple(
                {
                    **{"metric": "ap50", "case": patient_digest(name), "patient": who[name]},
                    **{"truth": truth[image], "found": found.get(image, [])},
                }
                for image, name in images.items()
            )
        )
    return ScoredPredictions(tuple(rows), notes=tuple(notes))


def _names_of(images: Mapping[Any, str], labels: Path) -> dict[Any, str]:
    """Return the name of each image without ending, with its folders where names are equal without them."""
    stems = {image: Path(file).stem for image, file in images.items()}
    if len(set(stems.values())) == len(images):
        return stems
    whole = {image: str(Path(file).with_suffix("")) for image, file in images.items()}
    if len(set(whole.values())) < len(images):
        raise UsageError(f"--labels '{labels.name}': expected each file_name once, got one twice")
    return whole


def _detections(
    one: PredictionSet, names: Mapping[Any, str], truth: Mapping[Any, Any]
) -> tuple[dict[Any, list[Any]], list[str]]:
    """Return the boxes of each image, and notes."""
    found: dict[Any, list[Any]] = {}
    unknown = 0
    content = _read(one.path)
    try:
        for entry in content:
            if entry["image_id"] in truth and entry["category_id"] in names:
                score = float(entry["score"])
                if not math.isfinite(score):
                    raise ValueError("score that has no rank")
                box = [names[entry["category_id"]], score, *_corners(entry["bbox"])]
                found.setdefault(entry["image_id"], []).append(box)
            else:
                unknown += 1
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{one.tool}: expected COCO results, a list of objects with image_id, category_id, bbox and score"
        ) from error
    if content and not found:
        raise DataError(f"{one.tool}: no detection has an image and a category of the labels; check the ids")
    empty = len(truth) - len(found)
    lines = {
        f"{one.tool}: no detection in {empty} of {counted(len(truth), 'image')}": empty,
        f"{one.tool}: detections not used, as their ids are unknown: {unknown}": unknown,
    }
    return found, [line for line, count in lines.items() if count]


def _corners(box: Sequence[Any]) -> list[float]:
    """Return x, y, z of both corners; pictures have one slice."""
    numbers = [float(value) for value in box]
    if len(numbers) == 4:
        x, y, width, height = numbers
        numbers = [x, y, 0.0, width, height, 1.0]
    if len(numbers) != 6 or min(numbers[3:]) < 0 or not all(map(math.isfinite, numbers)):
        raise ValueError("box of another form")
    return [*numbers[:3], *(start + size for start, size in zip(numbers[:3], numbers[3:], strict=True))]


def _read(path: Path) -> Any:
    with open_regular(path) as stream:
        text = stream.read(_MAX_BYTES + 1)
    try:
        return parse_json(text) if len(text) <= _MAX_BYTES else None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"'{path.name}': expected JSON in COCO's format; export it again") from error
