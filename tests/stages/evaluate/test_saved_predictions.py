import json

import numpy as np
import pytest

from medmim.data.dataset.manifest import read_dataset
from medmim.data.formats.nifti import Image, read_image
from medmim.data.formats.write_volume import encode_image
from medmim.errors import DataError, UsageError
from medmim.stages.evaluate.case_scores import classes_of_data
from medmim.stages.evaluate.class_matching import match_classes
from medmim.stages.evaluate.saved_predictions import PredictionScorer, read_predictions
from medmim.training.tasks.registry import build_task


def scorer_of(folder, dataset, **options):
    saved = read_predictions(folder)
    codes = classes_of_data("segment", dataset, dataset.volumes)
    task = build_task("segment", **options)
    return PredictionScorer(saved, task, dataset, codes, match_classes(list(saved.classes), list(codes)))


@pytest.fixture
def exact(tiny_dataset, tmp_path):
    """Label maps of another tool with other numbers, right for the first case, shifted for the second."""
    dataset = read_dataset(tiny_dataset)
    for number, volume in enumerate(dataset.volumes[:2]):
        label = read_image(tiny_dataset / volume.label)
        affine = label.affine + np.eye(4, k=3) * 0.2 * number
        codes = np.array([0, 7, 3], dtype=np.uint8)[label.array.astype(int)]
        (tmp_path / f"{volume.id}.nii.gz").write_bytes(encode_image(Image(codes, affine)))
    names = {"labels": {"background": 0, "rim": 3, "core": 7}}
    (tmp_path / "dataset.json").write_text(json.dumps(names))
    return tmp_path, dataset


def test_label_maps_of_any_tool_match_by_name(exact):
    folder, dataset = exact
    rows = scorer_of(folder, dataset, metrics=["cldice", "dice", "volume_error_ml"]).rows(dataset.volumes[0])
    assert {row["label"]: row["dice"] for row in rows} == {"core": 1.0, "rim": 1.0}
    assert [(row["cldice"], row["volume_error_ml"]) for row in rows] == [(1.0, 0.0)] * 2


def test_a_missing_prediction_counts_as_empty_and_a_shifted_one_is_refused(exact):
    folder, dataset = exact
    scorer = scorer_of(folder, dataset)
    assert {row["dice"] for row in scorer.rows(dataset.volumes[2])} == {0.0}
    with pytest.raises(DataError, match="another grid"):
        scorer.rows(dataset.volumes[1])


def test_names_that_leave_the_folder_of_predictions_are_refused(exact, tmp_path):
    folder, dataset = exact
    case = dataset.volumes[0].id
    index = {"model": {"task": "segment", "name": "m"}, "predicted": [case], "classes": {"1": "core"}}
    for name in ("../../secret", "/etc/secret", f"../{case}"):
        (folder / "predictions.json").write_text(json.dumps({**index, "names": {case: name}}))
        with pytest.raises(DataError, match="outside of its folder: do not trust it"):
            read_predictions(folder)


def test_a_folder_without_predictions_is_rejected(tmp_path):
    with pytest.raises(UsageError, match="found neither"):
        read_predictions(tmp_path)
    (tmp_path / "predictions.json").write_text("{}")
    with pytest.raises(UsageError, match="cannot be read"):
        read_predictions(tmp_path)
