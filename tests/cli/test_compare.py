"""`medmim compare`: lines for people, and invalid arguments."""

import pytest
from command_line import assert_one_line_error, medmim


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["compare", "abc"], 1, "compare abc: expected"),
        (["compare"], 1, "no finished fine-tuning run to compare"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_what_cannot_be_compared_is_one_line_and_an_exit_code(home, words, code, message):
    assert_one_line_error(words, code, message)


def test_people_get_lines(study, monkeypatch):
    monkeypatch.setenv("MEDMIM_HOME", str(study.home))
    result = medmim("compare", study.scratch.run_id, study.tuned.run_id)
    assert result.exit_code == 0, result.output
    assert "spark mesh 0.7" in result.stdout
    assert "too few patients for a claim" in result.stdout
    assert "report.html" in result.stdout
