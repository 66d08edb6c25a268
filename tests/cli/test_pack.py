"""`medmim pack`: the file of a study, and a study without runs."""

import json

from command_line import assert_one_line_error, medmim

from medmim.tracking.mlflow_store import Store


def test_the_file_and_the_number_of_runs_are_printed(home, tmp_path):
    Store(home).begin(experiment="s", name="s", tags={"study": "s", "role": "study"}).finish("FINISHED")
    place = tmp_path / "s.zip"
    result = medmim("pack", "s", "--out", place, "--json")
    assert json.loads(result.stdout) == {"file": str(place), "runs": 1}
    assert place.is_file()
    assert medmim("pack", "s", "--out", place).stdout.splitlines()[-1].endswith(f"medmim unpack {place}")


def test_a_study_without_runs_is_an_error(home):
    assert_one_line_error(["pack", "none"], 1, "no runs of this study here")
