"""Warnings of comparisons: weak runs, classes that were never predicted, skewness."""

from dataclasses import replace

import numpy as np
from simulated import two_arms

from medmim.tracking.comparison.findings import find
from medmim.tracking.comparison.runs import AT_CHANCE


def test_skewed_differences_are_warned_about():
    warnings = find(two_arms([0.0] * 11 + [0.3])).warnings
    assert any("are skewed (most for a against scratch, skewness +" in text for text in warnings)
    assert not any("skewed" in text for text in find(two_arms(np.linspace(-0.1, 0.1, 12))).warnings)


def test_runs_at_the_level_of_chance_are_counted():
    runs = two_arms(np.linspace(-0.1, 0.1, 12))
    weak = [replace(runs[0], tags={**runs[0].tags, AT_CHANCE: "true"}), *runs[1:]]
    assert not any("chance" in text for text in find(runs).warnings)
    (line,) = (text for text in find(weak).warnings if "chance" in text)
    assert line.startswith("1 of 2 runs of scratch scored at the level of chance on validation patients")


def test_classes_that_were_never_predicted_are_named_with_the_number_of_runs():
    def segmented(one, predicted_ml):
        cases = [
            {**row, "label": "core", "volume_ml": 1.0, "predicted_ml": predicted_ml} for row in one.cases
        ]
        return replace(one, cases=tuple(cases))

    runs = [segmented(one, 0.0 if one.arm == "scratch" else 0.5) for one in two_arms([0.1] * 12)]
    lines = [text for text in find(runs).warnings if "in no test case" in text]
    assert [line.split(":")[0] for line in lines] == [
        "2 of 2 runs of scratch predicted the class 'core' in no test case"
    ]


def test_arms_in_strata_of_their_own_are_not_said_to_lack_patients():
    runs = two_arms([0.1] * 6)
    apart = [replace(one, tags={**one.tags, "stratum": one.arm}) for one in runs]
    (line,) = (text for text in find(apart).warnings if "no two arms can be compared" in text)
    assert "each of 2 encoders or label fractions has one arm" in line


def test_an_arm_that_lacks_a_fold_of_a_seed_is_named_with_its_patients():
    runs = two_arms(np.linspace(-0.1, 0.1, 12))
    assert not any("folds are missing" in text for text in find(runs).warnings)
    place = next(number for number, one in enumerate(runs) if one.arm != "scratch")
    half = replace(runs[place], cases=runs[place].cases[:7])
    found = find([*runs[:place], half, *runs[place + 1 :]])
    (line,) = (text for text in found.warnings if "folds are missing" in text)
    assert line.startswith(f"5 of 12 test patients of {half.arm} have no score of some seeds")
    assert {one.test.patients for one in found.contrasts} == {7}
