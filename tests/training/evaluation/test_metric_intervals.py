import runpy
from pathlib import Path

import numpy as np
import pytest
import tiny
from scipy import special, stats

from medmim.data.loading.preprocess import VolumeLoader
from medmim.data.loading.preprocessing_plan import PreprocessingPlan
from medmim.training.evaluation.metric_intervals import caveat, class_sizes, interval, intervals, range_of
from medmim.training.tasks.base import EvaluationContext
from medmim.training.tasks.classification import Classification
from medmim.training.tasks.detection import Detection
from medmim.training.tasks.segmentation import Segmentation

BOXES = ["a", "b"]


def scene(names, **chosen):
    volumes = VolumeLoader(Path(), PreprocessingPlan(2, (16, 16)), cache_gb=0.1)  # not used by these tests
    return EvaluationContext(volumes, dict(enumerate(names, start=1)), "fp32", chosen)


def dice_rows(rng, patients=8):
    return [
        {
            **{"subject": f"p{who}", "case": f"{who}/{case}", "label": label, "dice": float(rng.uniform())},
            **{"hd95_mm": None, "surface_dice": float(rng.uniform()), "dice_any": float(rng.uniform())},
            **{"volume_ml": float(rng.integers(2)), "predicted_ml": 0.0},
        }
        for who in range(patients)
        for case in range(1 + who % 2)
        for label in tiny.NAMES.values()
    ]


def class_rows(rng, patients=8):
    found = []
    for number in range(40):
        share = float(rng.uniform())
        row = {"subject": f"p{number % patients}", "class": "ab"[int(rng.random() > share)]}
        found.append({**row, "case": str(number), "probabilities": {"a": share, "b": 1 - share}})
    return found


def box_rows(rng, patients=8):
    found = []
    for number in range(40):
        truth, boxes = [], []
        for _ in range(int(rng.integers(3))):
            name, first = BOXES[int(rng.integers(2))], rng.uniform(0, 80, size=3)
            truth.append([name, *first, *(first + 10)])
            near = first + rng.normal(0, 2.0, size=3)
            boxes.append([name, round(rng.uniform(0.3, 1), 1), *near, *(near + 10)])
            away = rng.uniform(0, 80, size=3)
            boxes.append([BOXES[int(rng.integers(2))], round(rng.uniform(0, 0.8), 1), *away, *(away + 10)])
        found.append({"subject": f"p{number % patients}", "truth": truth, "found": boxes})
    return found


TASKS = {
    "classify": (Classification(), class_rows, scene("ab")),
    "detect": (Detection(), box_rows, scene(BOXES, thresholds={"a": 0.4})),
    "segment": (Segmentation(), dice_rows, scene(tiny.NAMES.values())),
}


@pytest.mark.parametrize("name", sorted(TASKS))
def test_equal_weights_give_the_reported_means(name):
    task, made, place = TASKS[name]
    rows = made(np.random.default_rng(0))
    means = task.weighted_statistic(rows, place)(np.ones(8))
    assert means == pytest.approx(task.aggregate(rows, place), abs=1e-6)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_weight_two_equals_two_copies_of_a_patient(name):
    task, made, place = TASKS[name]
    rows = made(np.random.default_rng(1))
    weights = np.array([2.0, 0, 1, 3, 0, 1, 1, 0])
    drawn = [
        {**row, "subject": f"{row['subject']}/{copy}"}
        for row in rows
        for copy in range(int(weights[int(row["subject"][1:])]))
    ]
    found, expected = task.weighted_statistic(rows, place)(weights), task.aggregate(drawn, place)
    if name == "detect":  # ties of scores are ordered differently for copies and weights
        assert found.keys() == expected.keys()
        assert [found[key] for key in ("f1", "f1_a", "froc")] == pytest.approx(
            [expected[key] for key in ("f1", "f1_a", "froc")]
        )
        assert all(found[key] == pytest.approx(expected[key], abs=0.03) for key in expected)
    else:
        assert found == pytest.approx(expected)


def test_patients_count_instead_of_images():
    """One patient is always right and one always wrong, for any number of images."""
    few = [
        {"subject": who, "class": "a", "probabilities": {"a": share, "b": 1 - share}}
        for who, share in (("p", 0.9), ("q", 0.1))
        for _ in range(200)
    ]
    task, _, place = TASKS["classify"]
    [row] = [row for row in intervals(task.weighted_statistic(few, place), 2) if row["metric"] == "accuracy"]
    assert (row["value"], row["patients"]) == (0.5, 2)
    assert row["high"] - row["low"] > 0.85


def test_the_interval_of_a_mean_is_students_on_a_logit_scale():
    rows = dice_rows(np.random.default_rng(2), patients=30)
    task, _, place = TASKS["segment"]
    [dice] = [row for row in intervals(task.weighted_statistic(rows, place), 30) if row["metric"] == "dice"]
    of_patients = [np.mean([row["dice"] for row in rows if row["subject"] == f"p{who}"]) for who in range(30)]
    mean, error = np.mean(of_patients), stats.sem(of_patients)
    heavy = max(stats.kurtosis(of_patients, bias=False), 0)
    reach = stats.t.isf(0.025, 60 / (heavy + 60 / 29)) * error / (mean * (1 - mean))
    assert dice["value"] == pytest.approx(mean)
    assert [dice["low"], dice["high"]] == pytest.approx(
        special.expit(special.logit(mean) + np.array([-reach, reach]))
    )


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("dice_tumour", [0.0, 0.0, 0.0, 0.0, 0.2]),
        ("hd95_mm", [0.1, 0.2, 0.1, 0.3, 0.2, 9.0]),
        ("patient_kappa", [-0.9, 0.99, 0.99, 0.99]),
        ("r2", [-3.0, 0.9, 0.99, 0.99, 0.98, 0.97]),
        ("bias_ml", [-3.0, 8.0]),
    ],
)
def test_intervals_stay_inside_the_range_of_the_metric(key, values):
    without = [np.mean(np.delete(values, number)) for number in range(len(values))]
    low, high = interval(key, float(np.mean(values)), without)
    lowest, highest = range_of(key)
    assert lowest <= low < np.mean(values) < high <= highest


@pytest.mark.parametrize("key", ["hd95_mm", "hd95_mm_rim", "mae"])
def test_the_interval_of_a_distance_ends_at_the_largest_of_a_patient(key):
    """One failure of six reached thousands of mm on the logarithmic scale; fewer have no interval."""
    for values, widest in (([2.1, 3.4, 2.2, 4.0, 3.1, 61.0], 61.0), ([3.0, 3.2, 3.1, 2.9, 3.3, 3.0], 3.3)):
        without = [np.mean(np.delete(values, number)) for number in range(6)]
        low, high = interval(key, float(np.mean(values)), [*without, np.mean(values)])
        assert min(values) - 1e-9 <= low < np.mean(values) < high <= widest + 1e-9
        assert interval(key, float(np.mean(values)), without[:5]) is None  # too few patients


def test_a_perfect_score_of_all_patients_has_the_interval_of_a_proportion():
    low, high = interval("dice", 1.0, [1.0] * 10)
    assert high == 1.0
    assert low == pytest.approx(stats.binomtest(10, 10).proportion_ci(0.95, "exact").low)
    assert interval("hd95_mm", 0.0, [0.0] * 10) is None


def test_one_score_of_all_patients_allows_for_a_share_of_others():
    """Six patients of lesion F1 0.5: as many others as six without one allow, at 0 or at 1."""
    share = 1 - stats.binomtest(6, 6).proportion_ci(0.95, "exact").low
    assert interval("lesion_f1", 0.5, [0.5] * 6) == pytest.approx((0.5 - share / 2, 0.5 + share / 2))
    assert interval("accuracy", 0.75, [0.75] * 6) == pytest.approx((0.75 * (1 - share), 0.75 + share / 4))
    assert interval("hd95_mm", 2.0, [2.0] * 6) is None


@pytest.mark.parametrize(
    ("key", "quantile"), [("accuracy", stats.norm.isf(0.025)), ("f1_a", stats.t.isf(0.025, 9))]
)
def test_the_interval_of_counts_is_wilsons(key, quantile):
    """Nine of ten patients are right; the jackknife's variance is that of ten minus one patients."""
    right = [1.0] * 9 + [0.0]
    without = [np.mean(np.delete(right, number)) for number in range(10)]
    low, high = interval(key, 0.9, without)
    if key == "accuracy":
        shares = np.array([low, high])
        assert (shares - 0.9) ** 2 == pytest.approx(quantile**2 * shares * (1 - shares) / 9)
    else:  # heavy tails: fewer degrees of freedom than n - 1, hence wider
        assert (high - low) > np.ptp(interval("accuracy", 0.9, without))


@pytest.mark.parametrize(("value", "sizes"), [(0.85, (5, 45)), (0.6, (10, 10)), (1.0, (2, 48))])
def test_the_interval_of_auroc_solves_newcombes_equation(value, sizes):
    """The ends are the true values whose standard error times 1.96 is their distance from the found one."""
    (p, n), without = sizes, [value] * sum(sizes)
    low, high = interval("auroc_a", value, without, [sizes])
    for end in (low, high) if value < 1 else (low,):
        inner = 1 + ((p + n) / 2 - 1) * ((1 - end) / (2 - end) + end / (1 + end))
        error = np.sqrt(end * (1 - end) * inner / (p * n))
        assert abs(value - end) == pytest.approx(stats.norm.isf(0.025) * error)
    assert low < value <= high <= 1
    assert 1 - interval("auroc", 1 - value, without, [sizes, sizes[::-1]])[0] == pytest.approx(high)


def test_a_perfect_score_of_a_rare_class_is_that_of_its_few_patients():
    """Two of fifty patients have class `a`, and all fifty are right; two images of one patient count once."""
    rows = [
        {"subject": f"p{who}", "class": name, "probabilities": {"a": share, "b": 1 - share}}
        for who in range(50)
        for name, share in [("a", 0.9) if who < 2 else ("b", 0.1)] * 2
    ]
    assert class_sizes(rows) == {"a": (2, 48), "b": (48, 2)}
    assert class_sizes([{"subject": "p", "labels": {"a": 0}, "probabilities": {"a": 0.2, "b": 0.1}}]) == {
        "a": (0, 1)
    }
    task, _, place = TASKS["classify"]
    found = intervals(task.weighted_statistic(rows, place), 50, class_sizes(rows))
    low = {row["metric"]: row["low"] for row in found if row["value"] == 1.0}
    assert {key: low[key] for key in ("f1_a", "macro_f1", "balanced_accuracy")} == pytest.approx(
        dict.fromkeys(("f1_a", "macro_f1", "balanced_accuracy"), 0.025**0.5)
    )
    assert low["accuracy"] == pytest.approx(0.025**0.02)
    assert low["auroc"] < 0.6


def test_heavy_tails_widen_the_interval():
    """The degrees of freedom fall from 9 to about 2 with one patient far from the others."""
    even, skewed = np.linspace(0.4, 0.6, 10), np.array([0.48] * 4 + [0.49] * 5 + [0.64])
    reach = {}
    for name, values in {"even": even, "skewed": skewed}.items():
        mean = values.mean()
        without = [np.delete(values, number).mean() for number in range(10)]
        low, high = interval("bias_ml", mean, without)
        reach[name] = (high - low) / 2 / stats.sem(values)
    assert reach["even"] == pytest.approx(stats.t.isf(0.025, 9))
    assert reach["skewed"] > stats.t.isf(0.025, 4)


def test_a_test_set_without_failures_states_how_many_patients_may_fail():
    task, _, place = TASKS["segment"]
    rows = [
        {**row, "dice": 0.8 + 0.1 * row["dice"]} for row in dice_rows(np.random.default_rng(3), patients=10)
    ]
    found = intervals(task.weighted_statistic(rows, place), 10)
    [dice] = [row for row in found if row["metric"] == "dice"]
    assert dice["unseen_failures"] == pytest.approx(1 - 0.05**0.1)
    assert dice["low_with_failures"] == pytest.approx(0.05**0.1 * dice["low"])
    lowest = f"{0.05**0.1 * dice['low']:.2f}"
    assert f"up to 26 % of patients may be (95 % bound), and the mean then as low as {lowest}," in caveat(
        found
    )
    failed = [{**row, "dice": row["dice"] * (row["subject"] != "p3")} for row in rows]
    assert caveat(intervals(task.weighted_statistic(failed, place), 10)[:1]) is None


def test_patients_without_the_class_do_not_narrow_the_interval():
    """Nothing changes without them, as they have no score."""
    with_class = [0.5, 0.7, 0.9]
    without = [np.mean(np.delete(with_class, number)) for number in range(3)]
    alone = interval("dice", 0.7, without)
    among = interval("dice", 0.7, [*without, *[0.7] * 27])
    assert among[1] - among[0] > 0.7 * (alone[1] - alone[0])


def test_a_metric_that_one_patient_defines_has_no_interval():
    assert interval("dice", 0.7, [0.7, float("nan"), 0.7]) is None


def test_the_true_value_is_covered():
    script = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "metric_intervals.py"))
    row = script["coverage"]("Dice, tumour", 10, 200)
    assert row["coverage"] > row["coverage of percentiles"]
    assert row["coverage"] > 0.9
    assert row["inside the range"]


def test_a_single_patient_has_no_interval():
    rows = dice_rows(np.random.default_rng(0), patients=1)
    task, _, place = TASKS["segment"]
    assert {(row["low"], row["high"]) for row in intervals(task.weighted_statistic(rows, place), 1)} == {
        (None, None)
    }
    assert intervals(task.weighted_statistic([], place), 0) == []
