from dataclasses import replace

import numpy as np
import pytest
from recorded_runs import rows
from recorded_runs import run as recorded
from simulated import run

from medmim.tracking.comparison.arms import arms_of


def test_controls_come_first():
    runs = [recorded(arm, [0.5, 0.6]) for arm in ("b", "scratch", "a")]
    assert [arm.name for arm in arms_of(runs)] == ["scratch", "a", "b"]


def test_folds_share_the_row_of_their_seed():
    first, second = run("a", [0.5, 0.6]), run("a", [0.7, 0.8])
    moved = [{**case, "patient": f"q{case['patient']}"} for case in second.cases]
    (only,) = arms_of([first, replace(second, cases=tuple(moved))])
    assert only.scores.shape == (1, 4)
    assert only.mean == pytest.approx(0.65)
    assert only.sd_seeds is None


def test_seeds_cases_and_classes_are_averaged_within_a_patient():
    first = [*rows([0.2, 0.4], label="core"), *rows([0.4, 0.8], label="rim", hd95=None)]
    second = [*rows([0.6, 0.8], label="core"), *rows([0.8, 0.8], label="rim", hd95=4.0)]
    (arm,) = arms_of([recorded("a", first, seed=0), recorded("a", second, seed=1)])
    assert arm.patient_means == pytest.approx({"p0": 0.5, "p1": 0.7})
    assert (arm.seeds, arm.runs) == ((0, 1), ("a0", "a1"))
    assert arm.by_label == pytest.approx({"core": 0.5, "rim": 0.7})
    assert arm.hd95_mm == pytest.approx((2 * 4 + 4 * 2) / 6)


def test_no_distance_is_none():
    assert arms_of([recorded("a", rows([0.0, 0.0], hd95=None))])[0].hd95_mm is None


def test_one_patient_has_no_interval():
    assert arms_of([recorded("a", [0.5])])[0].interval is None


def test_the_interval_of_one_seed_covers_patients_only_even_beside_arms_with_more():
    rng = np.random.default_rng(0)
    wild = [run("a", 0.6 + seed / 10 + rng.normal(0, 0.01, 12), seed=seed) for seed in range(3)]
    arms = arms_of([*wild, run("b", 0.6 + rng.normal(0, 0.01, 12))])
    widths = {arm.name: arm.interval[1] - arm.interval[0] for arm in arms}
    assert widths["a"] > 10 * widths["b"]
    assert arms[1].as_json()["interval_over"] == "patients only"


def test_runs_of_one_name_with_different_settings_are_different_arms():
    runs = [
        replace(run("a", [0.5, 0.6], seed=seed), settings={"lr": lr}, run_id=f"{lr}/{seed}")
        for lr in (0.1, 0.2)
        for seed in (0, 1)
    ]
    assert [arm.name for arm in arms_of(runs)] == ["a [lr=0.1]", "a [lr=0.2]"]


def test_the_newest_of_repeated_runs_counts():
    runs = [run("a", [0.5, 0.6]), replace(run("a", [0.7, 0.8]), run_id="older")]
    assert arms_of(runs)[0].mean == pytest.approx(0.55)
