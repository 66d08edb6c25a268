from pathlib import Path

import label_folders as maker
import nibabel as nib
import numpy as np
import pytest

from medmim.errors import UsageError
from medmim.stages.compare_predictions.cases import PredictionSet
from medmim.stages.compare_predictions.label_maps import MapOptions, bland_altman, score_label_maps


def quiet(*_):
    """Take progress."""


def scored(root, *tools, **options):
    sets = [PredictionSet(tool, 0, root / tool) for tool in tools]
    return sets, score_label_maps(sets, root / "labels", MapOptions(**options), quiet)


def test_cases_that_are_missing_or_shifted_score_0(tmp_path):
    root = maker.two_tools(tmp_path, cases=4, missing=[1], shifted=[2])
    _, found = scored(root, "good", "worse", metrics=("dice", "lesion_sensitivity"))
    assert [(one.tool, one.case, one.reason) for one in found.problems] == [
        ("worse", "case_001", "missing"),
        ("worse", "case_002", "label_offset"),
    ]
    scores = np.array([row["dice"] for row in found.rows[1]]).reshape(4, 2)
    assert (scores[1:3] == 0).all()
    assert (scores[[0, 3]] > 0.5).all()
    assert all(row["dice"] > 0.9 for row in found.rows[0])
    assert {row["lesion_sensitivity"] for row in found.rows[1][2:6]} == {0.0}


def test_a_label_map_that_is_stored_flipped_is_aligned(tmp_path):
    array, affine = maker.label_map(), np.diag([1.5, 1.5, 1.5, 1.0])
    maker.save(tmp_path / "labels", "a.nii.gz", array)
    flipped = affine.copy()
    flipped[0, 0], flipped[0, 3] = -1.5, 1.5 * (len(array) - 1)
    (tmp_path / "tool").mkdir()
    nib.save(nib.Nifti1Image(array[::-1], flipped), tmp_path / "tool" / "a.nii.gz")
    _, found = scored(tmp_path, "tool", metrics=("dice",))
    assert [row["dice"] for row in found.rows[0]] == [1.0, 1.0]


def test_voxels_without_a_known_label_are_left_out(tmp_path):
    maker.write_names(tmp_path / "labels", {**maker.NAMES, "ignore": 3})
    truth, guess = maker.label_map(), maker.label_map()
    truth[4], guess[4] = 3, 0
    maker.save(tmp_path / "labels", "a.nii.gz", truth)
    maker.save(tmp_path / "tool", "a.nii.gz", guess)
    _, found = scored(tmp_path, "tool", metrics=("dice",))
    assert [(row["label"], row["dice"]) for row in found.rows[0]] == [("front", 1.0), ("back", 1.0)]


def test_the_default_metrics_follow_the_labels(tmp_path):
    maker.save(tmp_path / "labels", "a.nii.gz", maker.label_map())
    maker.save(tmp_path / "tool", "a.nii.gz", maker.label_map())
    _, found = scored(tmp_path, "tool", tolerance_mm=2.0)
    assert list(found.described.values()) == ["surface_dice", "hd95_mm"]
    assert any("surface Dice within 2 mm" in note for note in found.notes)
    specks = np.zeros((9, 9, 9), np.uint8)
    specks[::4, ::4, ::4] = 1
    for folder in ("labels", "tool"):
        maker.save(tmp_path / folder, "a.nii.gz", specks)
    _, found = scored(tmp_path, "tool")
    assert "lesion_f1" in found.described.values()
    assert any("several components of label 1 (27)" in note for note in found.notes)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [(("dise",), "did you mean 'dice'"), (("hd95_mm", "dice"), "expected a first metric, which is tested")],
)
def test_metrics_that_cannot_be_tested_are_rejected(tmp_path, metrics, message):
    root = maker.two_tools(tmp_path, cases=1)
    with pytest.raises(UsageError, match=message):
        scored(root, "good", metrics=metrics)


def test_bias_and_limits_of_agreement_of_volumes():
    sets = [PredictionSet("tool", 0, Path())]
    rows = [{"label": "a", "volume_ml": 10.0, "predicted_ml": 10.0 + error} for error in (-1.0, 0.0, 4.0)]
    [row] = bland_altman(sets, [rows])
    sd = np.std([-1, 0, 4], ddof=1)
    assert row["bias ml"] == "+1.000"
    assert row["limits of agreement ml"] == f"{1 - 1.96 * sd:+.3f} … {1 + 1.96 * sd:+.3f}"
