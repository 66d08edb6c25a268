"""Volumes of one visit are combined into cases with several channels."""

import pytest
import tiny

from medmim.data.dataset.channels import (
    channels_of,
    group_channels,
    select_channels,
    unmatched_channels,
    unstacked_channels,
)
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


def test_incomplete_visits_are_cases_on_request_and_say_what_they_lack():
    cases, rest = group_channels(ROWS, ["flair", "t1"], incomplete=True)
    assert [(one.missing, one.places, [channel.id for channel in one.channels]) for one in cases] == [
        ((), [0, 1], [ROWS[1].id, ROWS[0].id]),
        ((0,), [1], [ROWS[2].id]),
    ]
    assert rest == ()
    twice = (*ROWS[:1], volume("a", 2, "t1", "ax"))
    assert group_channels(twice, ["flair", "t1"], incomplete=True) == ((), twice)
    assert unmatched_channels(twice, ["flair", "t1"]) == "no flair, 2 t1 (of t1, t1+ax)"
    assert (
        unmatched_channels([volume("a", 0, "t1", "t2")], ["t2", "t1"])
        == "one volume for several channels (of t1+t2)"
    )
    assert group_channels([volume("a", 0)], ["t1"], incomplete=True)[0] == ()


def test_labels_that_several_volumes_share_suggest_channels():
    shared = [volume("a", number, word, label=True) for number, word in enumerate(("t1", "flair"))]
    line = "1 visit has a label that belongs to several volumes: each is a case of its own"
    assert unstacked_channels(shared) == (line, "t1,flair")
    alone = [shared[0], volume("a", 1, "flair"), volume("b", 0, "t2", label=True)]
    assert unstacked_channels(alone) == ("", "")


def test_different_labels_of_one_visit_are_reported(tmp_path):
    rows = [volume("a", number, word, label=True) for number, word in enumerate(("t1", "flair"))]
    rows = tuple(one.model_copy(update={"label_sha256": one.id}) for one in rows)
    lines = []
    select_channels(Dataset(tmp_path, DatasetInfo(name="d"), rows), ["t1", "flair"], lines.append)
    assert lines == [
        "warning: 1 visit has different labels in their channels: that of the first channel with one is used"
    ]


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
