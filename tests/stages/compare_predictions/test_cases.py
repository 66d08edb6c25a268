import pytest

from medmim.data.ingest.layout_rules import SubjectRule
from medmim.errors import DataError, UsageError
from medmim.stages.compare_predictions.cases import (
    PredictionSet,
    RejectedCase,
    matched,
    patients,
    prediction_sets,
    problem_notes,
    unmatched_images,
)


def test_a_repeated_name_has_several_trainings(tmp_path):
    for name in "abc":
        (tmp_path / name).mkdir()
    found = prediction_sets([f"x={tmp_path}/a", f"y={tmp_path}/b", f"x={tmp_path}/c"])
    assert [(one.tool, one.seed) for one in found] == [("x", 0), ("y", 0), ("x", 1)]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["nnunet"], "expected NAME=FOLDER"),
        (["=x"], "expected NAME=FOLDER"),
        (["a\nb={0}"], r"a name of letters, .* got 'a\\nb="),
        (["<b>={0}"], "a name of letters, digits"),
        (["a=nowhere"], "'nowhere' does not exist"),
        (["a={0}", "b={0}"], "is given twice"),
    ],
)
def test_predictions_of_another_form_are_rejected(tmp_path, texts, message):
    with pytest.raises(UsageError, match=message):
        prediction_sets([text.format(tmp_path) for text in texts])


def test_files_match_by_name_and_without_their_endings():
    assert matched(["a", "b_seg", "c", "d"], ["a", "a_0000", "b", "c_0000", "e"]) == {
        "a": "a",
        "b_seg": "b",
        "c": "c_0000",
    }


def test_two_files_of_one_case_are_rejected():
    with pytest.raises(DataError, match="'c' has 2 predictions"):
        matched(["c"], ["c_0000", "c_seg"])


def test_cases_are_patients_unless_a_rule_groups_them():
    names = ["p1_a", "p1_b", "p2_a"]
    each, note = patients(names, SubjectRule())
    assert len(set(each.values())) == 3
    assert "every file counts as a separate patient" in note
    grouped, note = patients(names, SubjectRule(r"^(p\d)"))
    assert len(set(grouped.values())) == 2
    assert "3 cases of 2 patients" in note
    assert not any(name in grouped[name] for name in names)


def test_cases_that_count_as_wrong_are_counted_without_their_names(tmp_path):
    sets = [PredictionSet("tool", 0, tmp_path)]
    problems = [RejectedCase("tool", "secret", "missing"), RejectedCase("tool", "other", "damaged")]
    notes = problem_notes(sets, problems, 9)
    assert notes == [
        "tool: 1 of 9 cases that cannot be read (damaged): counted as wrong",
        "tool: 1 of 9 cases without a prediction: counted as wrong",
    ]
    assert problems[0].sentence == "tool: secret: without a prediction; counted as wrong"


def test_images_whose_leading_zeros_a_spreadsheet_dropped_are_counted(tmp_path):
    one, names = PredictionSet("x", 0, tmp_path), {"007": 1, "12": 2}
    with pytest.raises(DataError, match="the same names; 1 of these would match with leading zeros"):
        unmatched_images(one, {"7": 1, "13": 1}, names)
    notes, missing = unmatched_images(one, {"7": 1, "12": 1}, names)
    assert notes[0].startswith("x: images without a label, not used: 1; 1 of these would match")
    assert [case.case for case in missing] == ["007"]
    assert "1 of these" in unmatched_images(one, {"007": 1, "12": 1}, {"7": 1, "12": 2})[0][0]
