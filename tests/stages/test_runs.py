import json

import pytest

from medmim.config import PretrainSettings
from medmim.errors import RunError
from medmim.stages.runs import Result, ending, stored_settings, unfinished
from medmim.tracking.recorder import MemoryRecorder
from medmim.tracking.store import Store


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "FINISHED"), (ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")],
)
def test_a_run_always_ends(error, status):
    recorder = MemoryRecorder()

    def work():
        with ending(recorder):
            if error:
                raise error

    if error:
        with pytest.raises(error):
            work()
    else:
        work()
    assert recorder.status == status


def begin(store, status, stage="pretrain"):
    recorder = store.begin(experiment="test", name="x", tags={"stage": stage})
    if status:
        recorder.finish(status)
    return recorder


def test_the_newest_unfinished_run_is_latest(home):
    store = Store(home)
    begin(store, "FAILED")
    wanted = begin(store, "KILLED").run_id
    begin(store, "FINISHED")
    begin(store, "FAILED", stage="finetune")
    assert unfinished(store, "pretrain", "latest") == wanted
    assert unfinished(store, "pretrain", wanted) == wanted


def test_a_run_that_was_cut_off_is_unfinished(home):
    store = Store(home)
    run_id = begin(store, None).run_id  # a power cut leaves it RUNNING
    assert unfinished(store, "pretrain", "latest") == run_id


def test_what_cannot_be_resumed_is_told(home):
    store = Store(home)
    done = begin(store, "FINISHED").run_id
    with pytest.raises(RunError, match="--resume: no unfinished pretrain run here"):
        unfinished(store, "pretrain", "latest")
    with pytest.raises(RunError, match="is already complete"):
        unfinished(store, "pretrain", done)
    with pytest.raises(RunError, match="was not made by `medmim finetune`"):
        unfinished(store, "finetune", done)


def test_settings_come_back_without_the_datasets_place(home, tmp_path):
    store, settings = Store(home), PretrainSettings(size=(8, 8, 8), ratio=0.5, data=tmp_path / "before")
    recorder = begin(store, None)
    recorder.settings(settings.model_dump(mode="json", exclude={"data"}))
    back = stored_settings(PretrainSettings, store, recorder.run_id, data=tmp_path / "now")
    assert back == settings.model_copy(update={"data": tmp_path / "now"})


def test_results_are_jsonable(tmp_path):
    result = Result("id", tmp_path / "w", {"a": 1.0}, tmp_path / "p")
    assert json.loads(json.dumps(result.as_json()))["checkpoint"] == str(tmp_path / "w")
