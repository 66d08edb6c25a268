"""Tests of postprocessing by connected components, chosen on validation rows."""

import numpy as np
import pytest

from medmim.training.evaluation.postprocessing import (
    apply_postprocessing,
    choose_postprocessing,
    components_of,
)


def organ_and_specks(specks=3):
    """Return a true organ and a prediction with false specks."""
    truth = np.zeros((20, 20, 20), bool)
    truth[4:12, 4:12, 4:12] = True
    prediction = truth.copy()
    for number in range(specks):
        prediction[17, 2 + 4 * number, 17] = True
    return prediction, truth


def rows(patients, *, specks=3, lesions=1):
    made = []
    for patient in range(patients):
        prediction, truth = organ_and_specks(specks)
        if lesions > 1:
            truth[14:16, 14:16, 2:4] = prediction[14:16, 14:16, 2:4] = True
        components = components_of(prediction, truth, 0.001)
        made.append(
            {
                "label": "organ",
                "subject": f"p{patient}",
                "volume_ml": truth.sum() / 1000,
                "components": components,
            }
        )
    return made


def test_components_are_measured_in_ml():
    prediction, truth = organ_and_specks()
    assert components_of(prediction, truth, 0.001) == [
        pytest.approx([0.512, 0.512]),
        *[pytest.approx([0.001, 0.0])] * 3,
    ]
    assert components_of(np.zeros((3, 3, 3), bool), truth[:3, :3, :3], 1.0) == []


def test_a_single_organ_keeps_its_largest_component():
    assert choose_postprocessing(rows(6)) == {"organ": {"largest_component": 1.0}}


def test_several_lesions_are_filtered_by_volume():
    [rule] = choose_postprocessing(rows(6, specks=4, lesions=2)).values()
    assert 0.001 < rule["min_ml"] <= 0.512


def test_small_true_lesions_are_not_given_up_for_the_cases_without_the_class():
    lesion = [{"label": "glioma", "volume_ml": 0.1, "components": [[0.1, 0.09]]}]
    absent = [{"label": "glioma", "volume_ml": 0.0, "components": [[0.2, 0.0]]}] * 3
    found = [{**row, "subject": f"p{patient}"} for patient in range(6) for row in lesion + absent]
    assert choose_postprocessing(found) == {}
    specks = [{**row, "components": [[0.05, 0.0]]} if not row["volume_ml"] else row for row in found]
    [rule] = choose_postprocessing(specks).values()
    assert 0.05 < rule["min_ml"] <= 0.1


def test_no_rule_is_chosen_without_a_gain_or_with_few_patients():
    assert choose_postprocessing(rows(6, specks=0)) == {}
    assert choose_postprocessing(rows(4)) == {}
    assert choose_postprocessing([]) == {}


@pytest.mark.parametrize("rule", [{"largest_component": 1.0}, {"min_ml": 0.01}])
def test_rules_remove_small_components_of_their_class_only(rule):
    prediction, truth = organ_and_specks()
    labels = prediction.astype(np.uint8)
    labels[0, 0, 0] = 2
    cleaned = apply_postprocessing(labels, {1: "organ", 2: "vessel"}, {"organ": rule}, 0.001)
    assert np.array_equal(cleaned == 1, truth)
    assert cleaned[0, 0, 0] == 2
