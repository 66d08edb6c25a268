"""The life of a training run and its result."""

import json

import pytest

from medmim.stages.run_lifecycle import RunResult, managed_run
from medmim.tracking.recorder_interface import MemoryRecorder


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "FINISHED"), (ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")],
)
def test_a_run_always_ends(error, status):
    recorder = MemoryRecorder()

    def work():
        with managed_run(recorder):
            if error:
                raise error("broken")

    if error:
        with pytest.raises(error, match="broken"):
            work()
    else:
        work()
    assert recorder.status == status


def test_results_are_jsonable(tmp_path):
    result = RunResult("id", tmp_path / "w", {"a": 1.0}, tmp_path / "p")
    assert json.loads(json.dumps(result.as_json()))["checkpoint"] == str(tmp_path / "w")
