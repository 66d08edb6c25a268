import math

import numpy as np
import pytest

from medmim.training.evaluation.detection_metrics import (
    average_precision,
    best_thresholds,
    box_means,
    f1_at,
    froc,
    match,
)

NAMES = ["a", "b"]


def rows(count=40, *, seed=0):
    """Return images with zero to two true boxes, and predicted boxes near them or at random positions."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        truth, boxes = [], []
        for _ in range(int(rng.integers(3))):
            name, first = NAMES[int(rng.integers(2))], rng.uniform(0, 80, size=3)
            truth.append([name, *first, *(first + 10)])
            if rng.random() < 0.8:
                near = first + rng.normal(0, 1.0, size=3)
                boxes.append([name, float(rng.uniform(0.3, 1)), *near, *(near + 10)])
        for _ in range(int(rng.integers(3))):
            first = rng.uniform(0, 80, size=3)
            boxes.append([NAMES[int(rng.integers(2))], float(rng.uniform(0, 0.7)), *first, *(first + 10)])
        found.append({"truth": truth, "found": boxes})
    return found


def test_the_mean_over_classes_is_that_of_their_average_precisions():
    """`tests/benchmarks/test_developer_benchmarks.py` compares it with COCO's own code."""
    found = rows()
    means = box_means(found, NAMES)
    for name in NAMES:
        assert means[f"ap50_{name}"] == average_precision(match(found, name))
    assert means["ap50"] == pytest.approx((means["ap50_a"] + means["ap50_b"]) / 2)
    assert means["ap50_95"] < means["ap50"]


def test_integer_weights_equal_copies_of_rows():
    found = rows()
    weights = np.random.default_rng(1).integers(0, 3, size=len(found)).astype(float)
    copied = [row for row, times in zip(found, weights, strict=True) for _ in range(int(times))]
    weighted = average_precision(match(found, "a"), weights)
    assert weighted == pytest.approx(average_precision(match(copied, "a")), abs=0.02)


def test_perfect_boxes_have_perfect_metrics():
    found = [{**row, "found": [[box[0], 0.9, *box[1:]] for box in row["truth"]]} for row in rows()]
    means = box_means(found, NAMES)
    for key in ("ap50", "ap50_95", "ap50_any", "f1", "froc"):
        assert means[key] == pytest.approx(1.0), key


def test_no_predicted_boxes_give_zero_metrics():
    means = box_means([{**row, "found": []} for row in rows()], NAMES, {"a": 0.5, "b": 0.5})
    assert means["ap50"] == means["f1"] == means["froc"] == 0


def test_precision_is_undefined_without_true_boxes():
    empty = [{**row, "truth": []} for row in rows()]
    assert math.isnan(average_precision(match(empty, "a")))
    assert "ap50" not in box_means(empty, NAMES)
    assert box_means([], NAMES) == {}


def test_the_best_threshold_has_the_best_f1():
    found = rows(100)
    chosen = best_thresholds(found, NAMES)
    for name in NAMES:
        matches = match(found, name)
        best = max(f1_at(matches, score) for score in np.linspace(0, 1, 500))
        assert f1_at(matches, chosen[name]) == pytest.approx(best, abs=1e-9)


def test_given_thresholds_are_used():
    found = rows(100)
    assert box_means(found, NAMES, {"a": 2.0, "b": 2.0})["f1"] == 0


def test_a_box_of_the_wrong_class_counts_for_class_agnostic_metrics_only():
    box = [0.0, 0.0, 0.0, 10.0, 10.0, 1.0]
    found = [{"truth": [["a", *box]], "found": [["b", 0.9, *box], ["a", 0.2, *box]]}]
    means = box_means(found, NAMES)
    assert means["ap50_any"] == pytest.approx(1.0)
    assert means["ap50_a"] == pytest.approx(1.0)  # b has no true box and therefore no precision


def test_froc_is_the_mean_sensitivity_at_fixed_false_positive_rates():
    box, away = [0.0, 0.0, 0.0, 10.0, 10.0, 1.0], [50.0, 50.0, 0.0, 60.0, 60.0, 1.0]
    images = [{"truth": [["a", *box]], "found": [["a", 0.9, *box]]}] * 2
    images += [{"truth": [["a", *box]], "found": [["a", 0.95, *away]]}] * 2
    assert 0 < froc(match(images, "a")) <= 0.5


def test_a_class_without_true_boxes_is_excluded_from_the_mean():
    found = rows(seed=2)
    alone = [{key: [box for box in row[key] if box[0] == "a"] for key in row} for row in found]
    alone[0]["found"].append(["b", 0.9, 0.0, 0.0, 0.0, 5.0, 5.0, 5.0])
    means, expected = box_means(alone, [*NAMES, "c"]), box_means(alone, ["a"])
    assert means["ap50"] == means["ap50_a"] == expected["ap50"]
    assert means["ap50_95"] == expected["ap50_95"]
    assert "ap50_b" not in means


def test_thresholds_are_never_chosen_on_test_data():
    found = rows(100)
    fixed = {name: f1_at(match(found, name), 0.5) for name in NAMES}
    for thresholds in ({}, {"a": 0.5}):
        means = box_means(found, NAMES, thresholds)
        assert [means["f1_a"], means["f1_b"]] == [fixed["a"], fixed["b"]]


def test_a_threshold_does_not_separate_equal_scores():
    box, away = [0.0, 0.0, 0.0, 10.0, 10.0, 1.0], [50.0, 50.0, 0.0, 60.0, 60.0, 1.0]
    images = [{"truth": [["a", *box]], "found": [["a", 0.9, *box]]}] * 2
    images += [{"truth": [["a", *box]], "found": [["a", 0.5, *box]]}]
    images += [{"truth": [], "found": [["a", 0.5, *away]]}] * 9
    chosen = best_thresholds(images, ["a"])
    assert chosen == {"a": 0.9}
    assert f1_at(match(images, "a"), chosen["a"]) == pytest.approx(4 / 5)
