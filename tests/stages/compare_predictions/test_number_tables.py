"""Tests of tables of numbers."""

import pytest

from medmim.data.ingest.layout_rules import SubjectRule
from medmim.errors import DataError, UsageError
from medmim.stages.compare_predictions.cases import PredictionSet
from medmim.stages.compare_predictions.number_tables import score_number_tables


def scored(folder, truth, *lines):
    for name, rows in (("labels", truth), ("tool", lines)):
        (folder / f"{name}.csv").write_text("\n".join(["image,value", *rows]) + "\n")
    return score_number_tables(
        [PredictionSet("tool", 0, folder / "tool.csv")], folder / "labels.csv", SubjectRule()
    )


TRUTH = ("a.png,10", "b.png,20", "c.png,70")


def test_numbers_are_matched_by_name_and_a_missing_one_is_the_farthest(tmp_path):
    found = scored(tmp_path, TRUTH, "b.nii.gz,21", "a,9", "z,5")
    assert [row["predicted"] for row in found.rows[0]] == [9, 21, 10]
    assert [(one.case, one.reason) for one in found.problems] == [("c", "missing")]
    assert "tool: images without a label, not used: 1" in found.notes
    [[errors]] = found.tables.values()
    assert float(errors["mae"]) == pytest.approx((1 + 1 + 60) / 3, rel=1e-3)


@pytest.mark.parametrize(
    ("truth", "line", "error", "message"),
    [
        (TRUTH, "a,old", UsageError, "tool: 'tool.csv': expected the columns image and value"),
        (TRUTH, "a,nan", UsageError, "finite numbers"),
        (TRUTH, "z,3", DataError, "none of 1 image has a label"),
        (("a,1", "b,1"), "a,1", DataError, "two different numbers or more"),
    ],
)
def test_tables_that_do_not_fit_are_rejected(tmp_path, truth, line, error, message):
    with pytest.raises(error, match=message):
        scored(tmp_path, truth, line)
