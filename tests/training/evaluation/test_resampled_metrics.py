import numpy as np
import pytest

from medmim.training.evaluation.classification_metrics import arrays, confusion, macro_f1
from medmim.training.evaluation.regression_metrics import patient_values, r2_of
from medmim.training.evaluation.resampled_metrics import (
    MEASURES,
    average,
    measure_of,
    metric_of,
    never_predicted,
    pseudo_values,
)


def dice_rows(values, metric="dice"):
    return [
        {"metric": metric, "patient": who, "case": f"{who}{n}", "label": label, metric: value}
        for n, (who, label, value) in enumerate(values)
    ]


def class_rows(seed=0, *, patients=8, images=40):
    rng = np.random.default_rng(seed)
    found = []
    for number in range(images):
        share = float(rng.uniform())
        found.append(
            {
                "metric": "macro_f1",
                "patient": f"p{number % patients}",
                "case": str(number),
                "class": "ab"[int(rng.random() > share)],
                "probabilities": {"a": share, "b": 1 - share},
            }
        )
    return found


def box_rows(seed=0, *, patients=5, images=25):
    rng = np.random.default_rng(seed)
    found = []
    for number in range(images):
        box = [0.0, 0.0, 0.0, 10.0, 10.0, 1.0]
        boxes = [
            ["a", float(rng.uniform()), *(box if rng.random() < 0.6 else [60.0, 0.0, 0.0, 70.0, 10.0, 1.0])]
        ]
        found.append(
            {"metric": "ap50", "patient": f"p{number % patients}", "truth": [["a", *box]], "found": boxes}
        )
    return found


def number_rows(seed=0, *, patients=8):
    rng = np.random.default_rng(seed)
    return [
        {"metric": "r2", "patient": f"p{n % patients}", "value": 10.0 * (n % patients), "predicted": noise}
        for n, noise in enumerate((10.0 * (np.arange(12) % patients) + rng.normal(0, 5, 12)).tolist())
    ]


def test_r2_of_two_patients_is_the_mean_of_their_shares():
    rows = number_rows(patients=2)
    assert np.mean(list(pseudo_values(rows).values())) == pytest.approx(measure_of(rows).value(np.ones(2)))
    _, truth, guess = patient_values(rows, key="patient")
    assert measure_of(rows).value(np.ones(2)) == pytest.approx(r2_of(truth, guess, np.ones(2)))


def label_rows(seed=0, *, patients=8, images=24):
    rng = np.random.default_rng(seed)
    found = []
    for number in range(images):
        shares = dict(zip("ab", rng.uniform(size=2).round(1).tolist(), strict=True))
        truth = {name: int(rng.random() < share) for name, share in shares.items() if rng.random() < 0.9}
        words = {"metric": "macro_auroc", "patient": f"p{number % patients}", "case": str(number)}
        predicted = [name for name, share in shares.items() if share >= 0.5]
        found.append({**words, "labels": truth, "found": predicted, "probabilities": shares})
    return found


def grade_rows(seed=0, *, patients=8, images=24):
    rng = np.random.default_rng(seed)
    truth = rng.integers(4, size=images).tolist()
    return [
        {
            "metric": "quadratic_kappa",
            "patient": f"p{number % patients}",
            "grade": grade,
            "predicted_grade": int(np.clip(grade + rng.integers(-1, 2), 0, 3)),
            "grades": 4,
        }
        for number, grade in enumerate(truth)
    ]


ROWS = {
    "ap50": box_rows(),
    "quadratic_kappa": grade_rows(),
    "macro_auroc": label_rows(),
    "macro_f1": class_rows(),
    "r2": number_rows(),
    **{
        metric: dice_rows([(f"p{n}", label, 0.1 * n) for n in range(6) for label in ("x", "y")], metric)
        for metric in ("dice", "surface_dice", "lesion_f1", "cldice", "panoptic_quality")
    },
}


def test_every_measure_has_test_rows():
    assert ROWS.keys() == MEASURES.keys()


@pytest.mark.parametrize("metric", sorted(MEASURES))
def test_a_patient_drawn_twice_equals_two_patients(metric):
    rows = ROWS[metric]
    measure = measure_of(rows)
    weights = np.arange(len(measure.patients)) % 3 + 0.0
    copied = [
        {**row, "patient": f"{who}-{copy}"}
        for who, times in zip(measure.patients, weights, strict=True)
        for copy in range(int(times))
        for row in rows
        if row["patient"] == who
    ]
    again = measure_of(copied)
    expected = again.value(np.ones(len(again.patients)))
    assert measure.value(weights) == pytest.approx(expected, abs=0.02 if metric == "ap50" else 1e-9)


@pytest.mark.parametrize("metric", sorted(MEASURES))
def test_the_average_of_a_measure_with_itself_is_unchanged(metric):
    one = measure_of(ROWS[metric])
    both, weights = average([one, one]), np.ones(len(one.patients))
    assert both.patients == one.patients
    assert both.value(weights) == pytest.approx(one.value(weights))
    assert both.by_class(weights) == pytest.approx(one.by_class(weights))
    assert both.each == pytest.approx(one.each)


def test_dice_is_averaged_over_cases_and_then_over_patients():
    rows = dice_rows([("p", "x", 0.2), ("p", "x", 0.4), ("q", "x", 0.9)])
    measure = measure_of(rows)
    assert measure.value(np.ones(2)) == pytest.approx(0.6)
    assert measure.is_mean


def test_f1_is_computed_over_all_cases():
    rows = class_rows()
    right = [row["class"] == ("a" if row["probabilities"]["a"] > 0.5 else "b") for row in rows]
    measure = measure_of(rows)
    assert not measure.is_mean
    assert measure.each.mean() == pytest.approx(np.mean(right))
    assert measure.value(np.ones(8)) != pytest.approx(measure.each.mean(), abs=1e-6)


def test_runs_on_different_patients_are_averaged_per_patient():
    first, second = dice_rows([("p", "x", 0.2), ("q", "x", 0.4)]), dice_rows([("q", "x", 0.8)])
    both = average([measure_of(first), measure_of(second)])
    assert both.patients == ("p", "q")
    assert both.each.tolist() == pytest.approx([0.2, 0.6])


def test_old_rows_without_a_metric_are_read_as_dice():
    rows = [{key: row[key] for key in row if key != "metric"} for row in ROWS["dice"]]
    assert metric_of(rows) == "dice"
    assert measure_of(rows).value(np.ones(6)) == pytest.approx(0.25)


def test_a_class_absent_from_training_counts_in_every_resample():
    found = class_rows() + [{**row, "class": "new"} for row in class_rows(1, images=16)]
    names, (truth, shares) = ["a", "b"], arrays(found, ["a", "b"])
    measure = measure_of(found)
    whole = np.ones(len(measure.patients))
    assert measure.value(whole) == pytest.approx(
        macro_f1(confusion(truth, shares.argmax(axis=1), len(names)))
    )


@pytest.mark.parametrize(
    ("rows", "missed"),
    [
        (
            [
                {"label": "core", "volume_ml": 1.0, "predicted_ml": 0.0},
                {"label": "edema", "volume_ml": 1.0, "predicted_ml": 2.0},
                {"label": "absent", "volume_ml": 0.0, "predicted_ml": 0.0},
            ],
            ["core"],
        ),
        ([{"truth": [["a", 0, 1], ["b", 0, 1]], "found": [["b", 0.9, 0, 1]]}], ["a"]),
        ([{"labels": {"a": 1, "b": 0, "c": 1}, "found": ["c"], "probabilities": {}}], ["a"]),
        (
            [
                {"class": "a", "probabilities": {"a": 0.4, "b": 0.6}},
                {"class": "b", "probabilities": {"a": 0.1, "b": 0.9}},
            ],
            ["a"],
        ),
        ([{"value": 1.0}], []),
    ],
)
def test_classes_without_any_prediction_are_found(rows, missed):
    assert never_predicted(rows) == missed
