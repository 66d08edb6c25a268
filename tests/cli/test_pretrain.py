"""`medmim pretrain` names the alarms of the last evaluation."""

import pytest

from medmim.cli.pretrain import alarm_lines


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({"last/alarm_collapse": 1.0, "last/alarm_leak": 0.0}, ["collapse"]),
        ({"last/alarm_leak": 1.0}, ["leak"]),
        ({"last/loss": 1.0}, []),
    ],
)
def test_alarms_are_named(metrics, words):
    assert [line.split()[1].rstrip(":") for line in alarm_lines(metrics)] == words
