import math
from functools import partial

import numpy as np
import pytest
import tiny
import torch
from oracle import oracle_for, quiet_dataset
from scipy import ndimage

from medmim.data.dataset.manifest import read_dataset
from medmim.data.loading.preprocess import VolumeLoader
from medmim.data.loading.preprocessing_plan import PreprocessingPlan, plan_for
from medmim.training.evaluation.inference import segment
from medmim.training.evaluation.score_segmentations import (
    FINAL,
    CaseScore,
    FinalMetrics,
    compare_labels,
    mean_scores,
    score_volume,
)
from medmim.training.tasks.base import EvaluationContext
from medmim.training.tasks.segmentation import Segmentation

NAMES = {1: "core", 2: "rim"}


def naive_dice(first, second):
    union = first.sum() + second.sum()
    return 2 * (first & second).sum() / union if union else 1.0


def naive_hd95(first, second, spacing):
    surfaces = [mask & ~ndimage.binary_erosion(mask) for mask in (first, second)]
    far = [ndimage.distance_transform_edt(~surface, sampling=spacing) for surface in surfaces]
    return max(
        np.percentile(far[1][surfaces[0]], 95),
        np.percentile(far[0][surfaces[1]], 95),
    )


def balls(seed, shape=(14, 12, 10)):
    """Return a random label of two classes, which may touch the border."""
    rng = np.random.default_rng(seed)
    label = np.zeros(shape, dtype=np.int64)
    for value in (1, 2):
        centre = [rng.uniform(1, length - 1) for length in shape]
        squares = sum((grid - c) ** 2 for grid, c in zip(np.indices(shape), centre, strict=True))
        label[squares < rng.uniform(2, 4) ** 2] = value
    return label


def segments(network, volumes):
    """Return the function from a volume to its probabilities."""
    return partial(segment, network, plan=volumes.plan, precision="fp32", classes=3)


def compared(prediction, label, spacing=(1.0, 1.0, 1.0), **words):
    tensors = [torch.as_tensor(array)[None] for array in (prediction, label)]
    return compare_labels(*tensors, spacing, volume=tiny.row(), names=words.pop("names", NAMES), **words)


@pytest.mark.parametrize("seed", range(12))
def test_scores_equal_the_plain_formulas(seed):
    prediction, label, spacing = balls(seed), balls(seed + 100), (1.0, 0.7, 2.5)
    for value, score in zip(NAMES, compared(prediction, label, spacing), strict=True):
        first, second = prediction == value, label == value
        assert score.label == NAMES[value]
        assert score.dice == pytest.approx(naive_dice(first, second), abs=1e-6)
        if first.any() and second.any():
            assert score.hd95_mm == pytest.approx(naive_hd95(first, second, spacing), rel=1e-5)
        assert score.volume_ml == pytest.approx(second.sum() * 1.75 / 1000, rel=1e-5)
        assert score.predicted_ml == pytest.approx(first.sum() * 1.75 / 1000, rel=1e-5)


def test_a_perfect_prediction_has_perfect_scores():
    label = balls(3)
    assert [(score.dice, score.hd95_mm) for score in compared(label, label)] == [(1.0, 0.0), (1.0, 0.0)]


def test_distances_are_in_millimetres():
    label, moved = (np.zeros((12, 12, 12), dtype=np.int64) for _ in range(2))
    label[4:7, 4:7, 4:7] = moved[4:7, 4:7, 6:9] = 1
    score = compared(moved, label, (1.0, 1.0, 2.5), names={1: "a"})[0]
    assert score.hd95_mm == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("predicted", "true", "dice"), [(False, False, 1.0), (True, False, 0.0), (False, True, 0.0)]
)
def test_scores_of_empty_masks(predicted, true, dice):
    shape = (6, 6, 6)
    prediction, label = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    prediction[2:4, 2:4, 2:4] = predicted
    label[2:4, 2:4, 2:4] = true
    score = compared(prediction, label, names={1: "a"})[0]
    assert score.dice == score.surface_dice == dice
    assert score.hd95_mm is None


def test_distances_can_be_skipped():
    assert all(score.hd95_mm is None for score in compared(balls(1), balls(2), final=None))


def test_scoring_raises_no_warnings(recwarn):
    compared(balls(1), balls(2))
    assert [str(warning.message) for warning in recwarn] == []


def test_label_codes_may_have_gaps():
    label = np.where(balls(1) > 0, 4, 0)
    assert [(score.label, score.dice) for score in compared(label, label, names={4: "far"})] == [("far", 1.0)]


def test_an_unnamed_class_counts_as_background():
    label = balls(1)
    strange = np.where(label == 0, 7, label)
    assert [score.dice for score in compared(label, strange)] == [1.0, 1.0]


def test_the_union_of_all_classes_is_scored_as_well():
    label = np.zeros((8, 8, 8), np.int64)
    label[2:4, 2:6, 2:6], label[4:6, 2:6, 2:6] = 1, 2
    other = np.where(label == 1, 2, np.where(label == 2, 1, 0))  # classes exchanged: the union is correct
    other[2, 2, 2] = 0
    scores = compared(label, other)
    assert [score.dice for score in scores] == [0.0, 0.0]
    expected = naive_dice(label > 0, other > 0)
    assert [score.dice_any for score in scores] == pytest.approx([expected] * 2, abs=1e-6)
    assert mean_scores([score.row() for score in scores])["dice_any"] == pytest.approx(expected, abs=1e-6)
    unnamed = np.where(label == 1, 7, label)  # unnamed classes are excluded
    (one,) = compared(label, unnamed, names={2: "rim"})
    assert one.dice_any == 1.0


def case(subject, label, dice, hd95=None):
    return CaseScore(f"{subject}-x", subject, label, dice, hd95, None, 1.0, 1.0, dice_any=dice).row()


def test_cases_are_averaged_per_patient_first():
    scores = [
        case("a", "x", 1.0, 2.0),
        case("a", "x", 0.0),
        case("a", "x", 0.5, 4.0),
        case("b", "x", 1.0, 1.0),
    ]
    assert mean_scores(scores) == {"dice": 0.75, "dice_present": 0.75, "hd95_mm": 2.0}


def test_an_empty_prediction_does_not_score_well():
    """Each case has one of three classes: an empty prediction is correct for the two others."""
    there = case("a", "x", 0.0)
    absent = {**case("a", "y", 1.0), "volume_ml": 0.0, "predicted_ml": 0.0}
    means = mean_scores([there, absent, {**absent, "label": "z"}])
    assert means["dice"] == pytest.approx(2 / 3)
    assert means["dice_present"] == 0.0
    assert "dice_present" not in mean_scores([absent])


def test_each_class_has_its_own_mean():
    means = mean_scores([case("a", "x", 1.0, 2.0), case("a", "y", 0.0)])
    assert means == {
        "dice": 0.5,
        "dice_present": 0.5,
        "hd95_mm": 2.0,
        "dice_x": 1.0,
        "hd95_mm_x": 2.0,
        "dice_y": 0.0,
        "dice_any": 0.5,
    }


def test_no_scores_give_no_means():
    assert mean_scores([]) == {}


def test_rows_can_be_written_as_json():
    assert case("a", "x", 1.0) == {
        "case": "a-x",
        "subject": "a",
        "label": "x",
        "dice": 1.0,
        "hd95_mm": None,
        "surface_dice": None,
        "volume_ml": 1.0,
        "predicted_ml": 1.0,
        "dice_any": 1.0,
        "lesion_f1": None,
    }


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("orientation", ["RAS", "PIR", "SLA"])
def test_volumes_of_any_orientation_are_scored(tmp_path, dims, orientation):
    spacing = (1.0, 3.0, 1.0)
    row, label = quiet_dataset(tmp_path, spacing=spacing, orientation=orientation)
    volumes = VolumeLoader(tmp_path, PreprocessingPlan(dims, (16,) * dims), cache_gb=1.0)
    scores = score_volume(segments(oracle_for(volumes(row)), volumes), row, volumes, names=NAMES, final=FINAL)
    assert [(score.dice, score.hd95_mm) for score in scores] == [(1.0, 0.0), (1.0, 0.0)]
    assert [score.volume_ml for score in scores] == pytest.approx(
        [(label == value).sum() * 0.003 for value in NAMES]
    )


@pytest.mark.parametrize("chosen", ["spacing_mm", "common_mm"])
@pytest.mark.parametrize("orientation", ["RAS", "LIP"])
@pytest.mark.parametrize("dims", [2, 3])
def test_resampled_volumes_are_scored_on_the_grid_of_the_label(tmp_path, dims, orientation, chosen):
    spacing = (1.0, 1.0, 1.6) if dims == 3 else (1.3, 1.3, 4.0)
    row, label = quiet_dataset(tmp_path, spacing=spacing, orientation=orientation)
    plan = PreprocessingPlan(dims, (16,) * dims, **{chosen: (1.0, 1.0, 1.0)})
    volumes = VolumeLoader(tmp_path, plan, cache_gb=1.0)
    assert volumes(row).image.shape[1:] != label.shape
    scores = score_volume(segments(oracle_for(volumes(row)), volumes), row, volumes, names=NAMES, final=FINAL)
    voxel_ml = math.prod(spacing) / 1000
    assert [score.volume_ml for score in scores] == pytest.approx(
        [(label == value).sum() * voxel_ml for value in NAMES], rel=1e-5
    )
    rim = scores[1]  # interpolation between background and rim passes through the core's intensity
    assert rim.dice > 0.8
    assert rim.hd95_mm < 2


def test_segmentation_scores_and_draws_volumes(varied_dataset):
    rows = read_dataset(varied_dataset).volumes[:3]
    volumes = VolumeLoader(varied_dataset, plan_for(rows, dims=3, size=(16,)), cache_gb=1.0)
    task, scene = Segmentation(mirror=True), EvaluationContext(volumes, NAMES, "fp32", {})
    network = oracle_for(volumes(rows[0]))
    scores = task.evaluate(network, rows, scene, final=False)
    assert [(score["case"], score["label"]) for score in scores] == [
        (row.id, name) for row in rows for name in ("core", "rim")
    ]
    assert task.figure(network, rows, scene, title="three").startswith(b"\x89PNG")


@pytest.mark.parametrize("dims", [2, 3])
def test_images_resized_as_a_whole_are_scored_on_the_labels_own_grid(tmp_path, dims):
    row, label = quiet_dataset(tmp_path)
    volumes = VolumeLoader(tmp_path, PreprocessingPlan(dims, (40,) * dims, view="whole"), cache_gb=1.0)
    assert max(volumes(row).image.shape[1:]) == 40
    scores = score_volume(segments(oracle_for(volumes(row)), volumes), row, volumes, names=NAMES, final=None)
    assert scores[1].dice > 0.7
    assert scores[1].volume_ml == pytest.approx((label == 2).sum() / 1000)


def disc(centre, radius):
    rows, columns = np.indices((48, 48))
    return (((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2) < radius**2).astype(np.int64)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_surface_of_a_2d_image_is_its_outline(axis):
    """In 3D, every pixel of a single slice would be surface, and distances would be far too small."""
    first, second = disc((22, 20), 12), disc((22, 26), 10)
    spacing = (0.5, 0.7)
    expected = naive_hd95(first > 0, second > 0, spacing)
    whole = [np.expand_dims(one, axis) for one in (first, second)]
    score = compared(*whole, tuple(np.insert(spacing, axis, 3.0)), names={1: "a"}, final=FinalMetrics(0.4))[0]
    assert score.hd95_mm == pytest.approx(expected, rel=1e-5)


def test_label_codes_absent_from_training_are_not_scored():
    label = balls(3)
    strange = label.copy()
    strange[0, 0, 0] = 60_000
    assert [one.dice for one in compared(label, strange)] == [1.0, 1.0]
