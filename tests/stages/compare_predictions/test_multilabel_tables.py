"""Tests of tables of classes that do not exclude each other."""

import pytest

from medmim.data.ingest.layout_rules import SubjectRule
from medmim.errors import DataError, UsageError
from medmim.stages.compare_predictions.cases import PredictionSet
from medmim.stages.compare_predictions.multilabel_tables import score_multilabel_tables

TRUTH = ("image,mass,cyst", "a.png,1,0", "b.png,0,", "c.png,0,1", "d.png,1,-1")


def scored(folder, truth, *lines):
    for name, rows in (("labels", truth), ("tool", lines)):
        (folder / f"{name}.csv").write_text("\n".join(rows) + "\n")
    sets = [PredictionSet("tool", 0, folder / "tool.csv")]
    return score_multilabel_tables(sets, folder / "labels.csv", SubjectRule())


def test_unknown_labels_are_left_out_and_a_missing_image_is_wrong_in_every_class(tmp_path):
    found = scored(tmp_path, TRUTH, "image,cyst,mass", "a,.2,.9", "b,.1,.4", "d,.5,.8")
    assert [row["labels"] for row in found.rows[0]] == [
        {"mass": 1, "cyst": 0},
        {"mass": 0},
        {"mass": 0, "cyst": 1},
        {"mass": 1},
    ]
    assert found.rows[0][0]["probabilities"] == {"mass": 0.9, "cyst": 0.2}
    assert found.rows[0][2]["probabilities"] == {"mass": 1.0, "cyst": 0.0}
    assert [one.case for one in found.problems] == ["c"]
    [[mass, cyst]] = found.tables.values()
    assert (mass["present"], mass["absent"], mass["AUROC"]) == ("2", "2", "0.5000")
    assert (cyst["present"], cyst["absent"], cyst["AUROC"]) == ("1", "1", "0.0000")


@pytest.mark.parametrize(
    ("truth", "lines", "error", "message"),
    [
        (
            TRUTH,
            ("image,mass", "a,0.5"),
            DataError,
            "a column of probabilities from 0 to 1 for each of mass, cyst",
        ),
        (TRUTH, ("image,mass,cyst", "a,2.5,0"), DataError, "from 0 to 1"),
        (TRUTH, ("image,mass,cyst", "z,1,0"), DataError, "none of 1 image has a label"),
        (
            ("image,size", "a,3"),
            ("image,size", "a,1"),
            UsageError,
            "a column of 0 and 1 for each class, got size",
        ),
    ],
)
def test_tables_that_do_not_fit_are_rejected(tmp_path, truth, lines, error, message):
    with pytest.raises(error, match=message):
        scored(tmp_path, truth, *lines)
