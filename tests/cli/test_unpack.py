"""`medmim unpack`: the merged runs, and files that are no pack."""

import json

from command_line import assert_one_line_error, medmim

from medmim.tracking.mlflow_store import Store
from medmim.tracking.study_archive import pack


def test_the_numbers_of_merged_runs_are_printed(home, new_home, tmp_path):
    there = Store(new_home())
    there.begin(experiment="s", name="s", tags={"study": "s", "role": "study"}).finish("FINISHED")
    pack(there, there.runs(study="s"), tmp_path / "s.zip")
    merged = json.loads(medmim("unpack", tmp_path / "s.zip", "--json").stdout)
    assert (merged["runs"], merged["new_runs"], merged["versions"]) == (1, 1, 0)
    lines = medmim("unpack", tmp_path / "s.zip").stdout.splitlines()
    assert lines == ["1 run from the file: 0 new, 0 model versions", "next  medmim runs"]


def test_another_file_is_an_error(home, tmp_path):
    (tmp_path / "x.zip").write_bytes(b"no archive")
    assert_one_line_error(
        ["unpack", tmp_path / "x.zip"], 1, "expected a complete file written by `medmim pack`"
    )
