"""Scans are compared with the training data of a model."""

import numpy as np
import pytest
import threshold
import tiny

from medmim.data.dicom.slices import PHOTOMETRIC
from medmim.stages.unlike_training_data import (
    TRAINING_DATA,
    TrainingData,
    modality_warnings,
    summarize,
    unlike_training_data,
)
from medmim.training.tasks.trained_model import load_trained_model


def volume(root, subject="p", *, shape=(40, 50, 36), spacing=1.0, lowest=0.0, modality="OT"):
    """Write a volume and return its row."""
    image = np.random.default_rng(0).uniform(lowest, 500, shape).astype(np.float32)
    return tiny.write_volume(root, subject, image, np.diag([spacing] * 3 + [1.0]), modality=modality)


@pytest.fixture
def model(tmp_path):
    """A model that was trained on crops of MR scans."""
    rows = [volume(tmp_path, f"t{n}", shape=(35 + n, 50, 35), modality="MR") for n in range(3)]
    plan = {"spatial_dims": 3, "view": "patch", "spacing_mm": None, "common_mm": [1.0, 1.0, 1.0]}
    return {**plan, TRAINING_DATA: summarize(rows, tmp_path).model_dump(mode="json")}


def test_a_scan_like_the_training_data_is_accepted(model, tmp_path):
    for modality in ("MR", "OT"):
        assert unlike_training_data(model, volume(tmp_path, modality=modality), tmp_path) is None


@pytest.mark.parametrize(
    ("words", "difference"),
    [
        ({"shape": (300, 400, 1)}, "it is a single 2D image"),
        ({"shape": (240, 240, 1)}, "it is a single 2D image"),
        ({"modality": "CT"}, "it is CT"),
        ({"lowest": -1000.0}, "it has intensities below -200, as in CT"),
        ({"shape": (120, 120, 80)}, "it has an extent of 80×120×120 mm"),
        ({"spacing": 4.0, "shape": (10, 12, 9)}, "it has a spacing of 4×4×4 mm"),
    ],
)
def test_another_kind_of_scan_is_refused_with_a_description_of_the_training_data(
    model, tmp_path, words, difference
):
    found = unlike_training_data(model, volume(tmp_path, **words), tmp_path)
    trained_on = "MR volumes of 35 × 35–37 × 50 mm with voxels of 1 × 1 × 1 mm"
    assert found == f"{difference}, but the model was trained on {trained_on}"


@pytest.mark.parametrize(
    ("plan", "accepted"),
    [
        ({}, True),
        ({"common_mm": None}, False),  # as of earlier versions, or with spacing_mm=0
        ({"common_mm": None, "spacing_mm": [1.0, 1.0, 1.0]}, True),
        ({"common_mm": None, "view": "whole"}, True),
    ],
)
def test_other_voxels_are_refused_by_a_model_that_does_not_resample(model, tmp_path, plan, accepted):
    scan = volume(tmp_path, shape=(56, 70, 50), spacing=0.7)
    found = unlike_training_data({**model, **plan}, scan, tmp_path)
    assert found is None if accepted else found.startswith("it has a spacing of 0.7×0.7×0.7 mm")


def test_a_model_without_a_summary_accepts_everything(tmp_path):
    assert unlike_training_data({}, volume(tmp_path), tmp_path) is None


@pytest.mark.parametrize(("modality", "warned"), [("MR", True), ("OT", True), ("CT", False)])
def test_volumes_that_are_shown_inverted_are_reported(modality, warned, tmp_path):
    said = []
    trained = load_trained_model(threshold.write_model(tmp_path / "model", 1.5, modalities=["OT"]))
    row = tiny.row("p").model_copy(update={"modality": modality, "flags": {PHOTOMETRIC: "monochrome1"}})
    found = modality_warnings(trained, [row, tiny.row("q")], said.append)
    assert bool(found) is warned
    assert all("1 volume with MONOCHROME1" in line for line in (*found, *said))


@pytest.mark.parametrize(("repairs", "warned"), [((), True), (("colour_to_grey",), False), (None, False)])
def test_repairs_of_intensities_that_no_training_scan_had_are_reported(repairs, warned, tmp_path):
    data = TrainingData(modalities=("OT",), images_2d=True, volumes_3d=False, repairs=repairs)
    described = {"modalities": ["OT"], TRAINING_DATA: data.model_dump(mode="json")}
    trained = load_trained_model(threshold.write_model(tmp_path / "model", 1.5, **described))
    row = tiny.row("p").model_copy(update={"repairs": ("colour_to_grey", "sform_used")})
    said = []
    found = modality_warnings(trained, [row, tiny.row("q")], said.append)
    expected = (
        "1 of 2 scans have colours, which became grey values, unlike the training data: do not rely on "
        "predictions for them"
    )
    assert found == ((expected,) if warned else ())
    assert said == [f"warning: {line}" for line in found]


def test_the_summary_has_the_repairs_of_the_training_data(tmp_path):
    row = volume(tmp_path).model_copy(update={"repairs": ("nan_background",)})
    assert summarize([row, volume(tmp_path, "q")], tmp_path).repairs == ("nan_background",)
