"""The result of a prediction as a table."""

from pathlib import Path

from medmim.stages.predict.outputs import VolumePrediction
from medmim.stages.predict.predictions import Predictions


def test_the_table_lists_predictions_and_failures():
    result = Predictions(
        out=Path("out"),
        model={"name": "scans-segment 3"},
        volumes={"a": VolumePrediction([], "ball 3 ml")},
        failures={"b": "channel_missing"},
        warnings=("1 of 2 scans is CT",),
    )
    assert result.table() == [["volume", "prediction"], ["a", "ball 3 ml"], ["b", "channel_missing"]]
    assert str(result).splitlines()[-1] == "1 of 2 scans is CT"
    assert result.picture() is None
