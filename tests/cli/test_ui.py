"""`medmim ui` without runs."""

from command_line import assert_one_line_error


def test_a_home_without_runs_is_rejected(home):
    (home / "mlflow.db").unlink()
    assert_one_line_error(["ui"], 1, "no runs in")
