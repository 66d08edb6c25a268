"""Volumes of one visit are combined into cases with several channels."""

import pytest
import tiny

from medmim.data.dataset.channels import channels_of, group_channels, select_channels
from medmim.data.dataset.manifest import Dataset, DatasetInfo
from medmim.errors import DataError, UsageError


def volume(subject, number, *tokens, label=False):
    return tiny.row(subject, number, label=label).model_copy(update={"tokens": tokens, "study": subject})


ROWS = (volume("a", 0, "t1"), volume("a", 1, "flair", label=True), volume("b", 0, "t1"))


def test_visits_with_all_channels_become_cases():
    (case,), rest = group_channels(ROWS, ["flair", "t1"])
    assert [one.tokens for one in channels_of(case)] == [("flair",), ("t1",)]
    assert case.label == ROWS[1].label
    assert rest == ROWS[2:]
    assert channels_of(ROWS[0]) == (ROWS[0],)


def test_excluded_visits_are_logged(tmp_path):
    dataset, lines = Dataset(tmp_path, DatasetInfo(name="d"), ROWS), []
    assert len(select_channels(dataset, ["t1", "flair"], lines.append).volumes) == 1
    assert lines == ["excluded 1 visit without exactly one volume per channel: t1, flair"]
    with pytest.raises(DataError, match="no visit has exactly one volume for each"):
        select_channels(dataset, ["t1", "t2"], lines.append)


@pytest.mark.parametrize("wanted", [["t1", "t1"], ["t1", "blue"]])
def test_repeated_and_unknown_channels_are_rejected(wanted):
    with pytest.raises(UsageError, match="channels: expected"):
        group_channels(ROWS, wanted)
