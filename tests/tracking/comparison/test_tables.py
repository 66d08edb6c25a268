import csv
import io

import numpy as np
from recorded_runs import rows, run, spread
from simulated import simulate

from medmim.text_formats import csv_text
from medmim.tracking.comparison.findings import find
from medmim.tracking.comparison.tables import arm_rows, case_rows, contrast_rows, summary


def test_arms_may_have_different_classes():
    both = [*rows(spread(0.7)), *rows(spread(0.5), label="rim")]
    found = arm_rows(find([run("scratch", spread(0.6)), run("a", both)]))
    assert "Dice rim" not in found[0]
    assert found[1]["Dice rim"].startswith("0.5")
    written = list(csv.DictReader(io.StringIO(csv_text(found))))
    assert written[0]["Dice rim"] == ""


def test_every_patient_and_seed_has_a_row():
    findings = find(simulate(np.random.default_rng(0), seeds=2, patients=6, arms=("scratch", "a")))
    assert len(case_rows(findings)) == 2 * 2 * 6
    assert case_rows(findings)[0].keys() == {"arm", "seed", "patient", "score"}


def test_contrasts_state_what_their_interval_covers():
    found = contrast_rows(find(simulate(np.random.default_rng(0), seeds=1, arms=("scratch", "a"))))
    assert found[0]["interval over"] == "27 patients only, one seed"
    assert found[0]["detectable"] == "–"


def test_small_p_values_are_not_written_as_0():
    better = [value + 0.2 for value in spread(0.5, n=40)]
    found = contrast_rows(find([run("scratch", spread(0.5, n=40)), run("a", better)]))
    assert 0 < float(found[0]["p"]) < 1e-4


def test_the_metrics_of_an_arm_are_finite():
    findings = find(simulate(np.random.default_rng(0), patients=4, arms=("scratch", "a")))
    control, arm = (summary(one, findings) for one in findings.arms)
    assert {
        "score/mean",
        "score/sd",
        "score/lo",
        "score/hi",
        "score/n_patients",
        "score/n_seeds",
    } <= control.keys()
    assert "gain/mean" in arm
    assert "gain/detectable" not in arm
    assert all(np.isfinite(value) for value in (*control.values(), *arm.values()))


def test_formulas_are_quoted_and_numbers_are_not():
    text = csv_text([{"arm": "=1+1", "gain": "-0.5", "note": "@x"}])
    assert text.splitlines()[1] == "'=1+1,-0.5,'@x"
