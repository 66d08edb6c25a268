import runpy
from pathlib import Path

import numpy as np
import pytest

from medmim.training.evaluation.segmentation_metrics import SEGMENTATION_METRICS, SegmentationPair

REFERENCES = Path(__file__).parents[2] / "benchmarks" / "metric_references.py"


def cubes(*corners, shape=(16, 16, 16), size=3):
    mask = np.zeros(shape, dtype=bool)
    for corner in corners:
        mask[tuple(slice(start, start + size) for start in corner)] = True
    return mask


def values(predicted, true, **words):
    pair = SegmentationPair(predicted, true, **words)
    return {name: metric.measure(pair) for name, metric in SEGMENTATION_METRICS.items()}


@pytest.mark.filterwarnings("ignore::DeprecationWarning:surface_distance")
def test_every_metric_equals_its_reference_on_random_and_degenerate_cases():
    pytest.importorskip("surface_distance", reason="surface-distance, a dev dependency, is not installed")
    rows = runpy.run_path(str(REFERENCES))["compared"](60)
    assert {row["metric"] for row in rows} == SEGMENTATION_METRICS.keys()
    for row in rows:
        assert row["one of both undefined"] == 0
        assert row["largest difference"] < 1e-4, row["metric"]


def test_lesions_are_counted_one_by_one():
    true, predicted = cubes((0, 0, 0), (0, 8, 0), (8, 0, 0)), cubes((1, 1, 1), (12, 12, 12))
    found = values(predicted, true)
    assert found["lesion_sensitivity"] == pytest.approx(1 / 3)
    assert found["lesion_precision"] == pytest.approx(1 / 2)
    assert found["lesion_f1"] == pytest.approx(2 / 5)
    assert found["panoptic_quality"] == 0.0  # the overlap of 8 of 46 voxels is no match


@pytest.mark.parametrize("predicted", [True, False])
@pytest.mark.parametrize("true", [True, False])
def test_empty_masks_have_the_stated_score(predicted, true):
    masks = [cubes((2, 2, 2)) if present else cubes() for present in (predicted, true)]
    found = values(*masks)
    tested = {found[name] for name, metric in SEGMENTATION_METRICS.items() if metric.is_tested}
    assert tested == {float(predicted == true)}
    assert (found["hd95_mm"] is None) == (not (predicted and true))
    assert (found["lesion_sensitivity"] is None) == (not true)
    assert (found["lesion_precision"] is None) == (not predicted)


def test_distances_and_volumes_are_in_millimetres_and_millilitres():
    found = values(cubes((4, 4, 6)), cubes((4, 4, 4)), spacing_mm=(1.0, 1.0, 2.5))
    assert found["hd95_mm"] == pytest.approx(5.0)
    assert found["volume_error_ml"] == 0.0
    smaller = values(cubes((4, 4, 4), size=2), cubes((4, 4, 4)), spacing_mm=(1.0, 1.0, 2.5))
    assert smaller["volume_error_ml"] == pytest.approx(-(27 - 8) * 2.5 / 1000)


def test_surfaces_within_the_tolerance_count():
    true, thicker = (np.zeros((20, 20, 20), dtype=bool) for _ in range(2))
    true[9:11], thicker[8:12] = True, True
    near, far = (values(thicker, true, tolerance_mm=tolerance)["surface_dice"] for tolerance in (0.9, 1.1))
    assert near < 0.3  # the sides of the slabs coincide
    assert far == 1.0


def test_a_false_branch_costs_centreline_dice():
    true = np.zeros((40, 11, 11), dtype=bool)
    true[:, 4:7, 4:7] = True
    branched = true.copy()
    branched[20, 5, :] = True
    found = values(branched, true)
    assert found["dice"] > 0.98
    assert 0.85 < found["cldice"] < 0.95
