import numpy as np
import pytest

from medmim.data.ingest.layout_rules import SubjectRule
from medmim.errors import DataError, UsageError
from medmim.stages.compare_predictions.cases import PredictionSet
from medmim.stages.compare_predictions.class_tables import score_class_tables


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def labels(tmp_path):
    return write(tmp_path / "labels.csv", "image,label", "a.png,cat", "b.png,dog", "c.png,cat", "d.png,cat")


def scored(path, labels):
    return score_class_tables([PredictionSet("tool", 0, path)], labels, SubjectRule())


def test_labels_and_probabilities_are_read(tmp_path, labels):
    hard = scored(
        write(tmp_path / "1.csv", "image,label", "a,cat", "b,dog", "c,dog", "d,cat", "e,cat"), labels
    )
    soft = scored(
        write(tmp_path / "2.csv", "image,dog,cat", "a,.1,.9", "b,.8,.2", "c,.6,.4", "d,.2,.8"), labels
    )
    for found in (hard, soft):
        assert [row["accuracy"] for row in found.rows[0]] == [1.0, 1.0, 0.0, 1.0]
        assert [row["class"] for row in found.rows[0]] == ["cat", "dog", "cat", "cat"]
    assert "tool: images without a label, not used: 1" in hard.notes
    [curve] = soft.tables.values()
    assert np.mean([float(line["accuracy"]) for line in curve]) == 0.75


def test_an_image_without_a_prediction_counts_as_wrong(tmp_path, labels):
    found = scored(write(tmp_path / "1.csv", "image,label", "a,cat", "b,dog", "d,cat"), labels)
    assert [one.case for one in found.problems] == ["c"]
    assert found.rows[0][2]["probabilities"] == {"cat": 0.0, "dog": 1.0}
    assert "tool: 1 of 4 cases without a prediction: counted as wrong" in found.notes


@pytest.mark.parametrize(
    ("lines", "error", "message"),
    [
        (["image,label", "a,bird"], DataError, "a label that occurs in the labels"),
        (["image,dog", "a,0.5"], DataError, "a column of probabilities for each of cat, dog"),
        (["image,label", "z,cat"], DataError, "none of 1 image has a label; expected the same names$"),
        (["image,label", "a,cat", "a,dog"], UsageError, "got 1 more than once"),
        (["name,label", "a,cat"], UsageError, "expected CSV with a column image"),
        (["image,cat,dog", "a,90,10"], DataError, r"each of cat, dog, with the sum 1; got the columns"),
        (["image,cat,dog", "a,-3,4"], DataError, r"each of cat, dog, with the sum 1; got the columns"),
        (
            ["image,cat,dog,bird", "a,.3,.1,.6"],
            DataError,
            r"each of cat, dog, with the sum 1; got the columns",
        ),
        (["image,label,label", "a,cat,dog"], UsageError, "expected each column once"),
        (["image,label", "a,cat,dog"], UsageError, "no more cells in a row than columns"),
    ],
)
def test_tables_that_do_not_fit_are_rejected(tmp_path, labels, lines, error, message):
    with pytest.raises(error, match=message):
        scored(write(tmp_path / "1.csv", *lines), labels)


@pytest.mark.parametrize("cell", [",", ",nan", ",N/A", ""])
def test_an_image_without_a_true_class_is_no_class(tmp_path, cell):
    truth = write(tmp_path / "labels.csv", "image,label", "a,cat", "b,dog", f"c{cell}")
    with pytest.raises(DataError, match="expected a label for each image, got none for 1, such as c"):
        scored(write(tmp_path / "1.csv", "image,label", "a,cat"), truth)


def test_true_classes_in_two_cases_are_rejected_and_spaces_ignored(tmp_path):
    lines = ["image;label", "a; cat", "b;dog", "c;cat"]
    found = scored(write(tmp_path / "1.csv", *lines), write(tmp_path / "labels.csv", *lines))
    assert [row["accuracy"] for row in found.rows[0]] == [1.0, 1.0, 1.0]
    truth = write(tmp_path / "labels.csv", *lines, "d;Cat")
    with pytest.raises(DataError, match="of Cat, cat, dog, some differ in case only"):
        scored(tmp_path / "1.csv", truth)


def graded(folder, *lines):
    truth = write(folder / "grades.csv", "image,grade", "a,0", "b,1", "c,3", "d,1")
    return scored(write(folder / "tool.csv", *lines), truth)


def test_grades_are_ordered_and_a_missing_one_is_the_farthest(tmp_path):
    found = graded(tmp_path, "image,grade", "a,0", "b,4", "d,2")
    rows = found.rows[0]
    assert {row["metric"] for row in rows} == {"quadratic_kappa"}
    assert [(row["grade"], row["predicted_grade"], row["grades"]) for row in rows] == [
        *((0, 0, 5), (1, 4, 5), (3, 0, 5), (1, 2, 5)),
    ]
    soft = graded(tmp_path, "image,0,1,2,3", "a,.7,.3,0,0", "b,0,.2,.8,0", "c,0,0,.4,.6", "d,0,1,0,0")
    assert [row["predicted_grade"] for row in soft.rows[0]] == [0, 2, 3, 1]


@pytest.mark.parametrize("grade", ["mild", "1.5", "01", "400"])
def test_grades_that_are_no_small_integers_are_rejected(tmp_path, grade):
    with pytest.raises(UsageError, match="grades: expected integers such as 0, 1, 2"):
        graded(tmp_path, "image,grade", f"a,{grade}")


def test_names_of_classes_may_differ_in_case(tmp_path, labels):
    hard = scored(write(tmp_path / "1.csv", "image,label", "a,Cat", "b,DOG", "c,dog", "d,cat"), labels)
    soft = scored(
        write(tmp_path / "2.csv", "image,Dog,CAT", "a,.1,.9", "b,.8,.2", "c,.6,.4", "d,.2,.8"), labels
    )
    assert [row["accuracy"] for row in hard.rows[0]] == [row["accuracy"] for row in soft.rows[0]]
    with pytest.raises(DataError, match="got 'cow'"):
        scored(write(tmp_path / "3.csv", "image,label", "a,cow", "b,dog", "c,dog", "d,cat"), labels)
