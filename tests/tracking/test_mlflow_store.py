import getpass
import io
import sqlite3
import subprocess
import sys
import time

import pytest
import yaml
from PIL import Image

from medmim.errors import RunError
from medmim.tracking.mlflow_store import Store


@pytest.fixture(scope="module")
def store(new_home):
    return Store(new_home())


def begin(store, **tags):
    return store.begin(experiment="test", name="a run", tags=tags)


def png(mode="RGBA"):
    buffer = io.BytesIO()
    Image.new(mode, (8, 8)).save(buffer, format="png")
    return buffer.getvalue()


@pytest.mark.parametrize("below", ["file", "file/below", "dangling"])
def test_a_home_that_is_not_a_folder_is_an_error(tmp_path, below):
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    with pytest.raises(RunError, match=r"expected a folder, .* set MEDMIM_HOME to a folder") as found:
        Store(tmp_path / below)
    assert "\n" not in str(found.value)


def test_a_recorded_run_is_read_back(store, tmp_path):
    recorder = begin(store, stage="pretrain", seed="0")
    recorder.settings({"lr": 0.1, "size": (8, 8), "encoder": None, "encoder_options": {"filters": [4, 8]}})
    recorder.tags({"late": "yes"})
    recorder.metrics({"train/loss": 2.0}, step=1)
    recorder.metrics({"train/loss": 1.0, "val/loss": 3.0}, step=2)
    recorder.picture("panel", png(), step=1)
    recorder.picture("panel", png(), step=2)
    recorder.text("cases.jsonl", "{}\n")
    (tmp_path / "w.bin").write_bytes(b"123")
    recorder.file(tmp_path / "w.bin", folder="model")
    recorder.finish("FINISHED")
    run = store.run(recorder.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "a run"
    assert run.data.metrics == {"train/loss": 1.0, "val/loss": 3.0}
    assert run.data.params == {"lr": "0.1", "size": "8,8", "encoder": "None"}
    assert {key: run.data.tags[key] for key in ("stage", "seed", "late")} == {
        "stage": "pretrain",
        "seed": "0",
        "late": "yes",
    }
    assert store.read_text(run, "cases.jsonl") == "{}\n"
    settings = yaml.safe_load(store.read_text(run, "settings.yaml"))
    assert settings == {
        "lr": 0.1,
        "size": [8, 8],
        "encoder": None,
        "encoder_options": {"filters": [4, 8]},
    }
    history = store.client.get_metric_history(recorder.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(1, 2.0), (2, 1.0)]
    artifacts = {entry.path for entry in store.client.list_artifacts(recorder.run_id)}
    assert artifacts == {"cases.jsonl", "images", "model", "settings.yaml"}
    pictures = [entry.path for entry in store.client.list_artifacts(recorder.run_id, "images")]
    assert sum(path.endswith(".png") and "panel" in path for path in pictures) == 2


def test_long_settings_are_truncated_in_parameters_but_not_in_the_artifact(store):
    recorder = begin(store)
    recorder.settings({"init": "x" * 600})
    run = store.run(recorder.run_id)
    assert len(run.data.params["init"]) == 250
    assert yaml.safe_load(store.read_text(run, "settings.yaml")) == {"init": "x" * 600}


def test_runs_are_found_by_tags_newest_first(store):
    ids = [begin(store, stage="search", colour=colour).run_id for colour in ("red", "blue", "red")]
    found = [run.info.run_id for run in store.runs(stage="search", colour="red")]
    assert set(found) == {ids[0], ids[2]}
    starts = [run.info.start_time for run in store.runs()]
    assert starts == sorted(starts, reverse=True)
    assert store.runs(stage="none") == []


def test_the_newest_run_is_the_last_one_although_the_clock_was_set_back(new_home):
    store = Store(new_home())
    tomorrow = int(time.time() * 1000) + 86_400_000
    store.client.create_run(store.experiment("e"), tomorrow, run_name="before")
    for name in "ab":
        store.begin(experiment="e", name=name, tags={})
    assert [run.info.run_name for run in store.runs()] == ["b", "a", "before"]


def test_a_run_is_resumed(store):
    recorder = begin(store)
    recorder.finish("KILLED")
    assert store.resume(recorder.run_id).run_id == recorder.run_id
    assert store.run(recorder.run_id).info.status == "RUNNING"


def test_points_after_the_last_saved_state_are_not_logged_twice(store):
    recorder = begin(store)
    for step in (1, 2):
        recorder.metrics({"train/loss": float(step)}, step=step)
    resumed = store.resume(recorder.run_id, keep_points=True)
    for step in (2, 3):  # resumed from the state of step 1
        resumed.metrics({"train/loss": float(step)}, step=step)
    history = store.client.get_metric_history(recorder.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_the_summary_of_a_study_is_replaced(store):
    recorder = begin(store)
    recorder.metrics({"score/mean": 0.5}, step=0)
    store.resume(recorder.run_id).metrics({"score/mean": 0.6}, step=0)
    assert store.run(recorder.run_id).data.metrics["score/mean"] == 0.6


def test_an_unknown_run_is_an_error(store):
    with pytest.raises(
        RunError, match="no run 'abc' in this home folder: list them with `medmim runs`, or set"
    ):
        store.run("abc")


def test_a_missing_artifact_is_an_error(store):
    recorder = begin(store)
    with pytest.raises(RunError, match=r"\(running\) has no artifact 'cases\.jsonl': restore it"):
        store.read_text(store.run(recorder.run_id), "cases.jsonl")


def test_models_are_registered_in_versions(store, tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"1")
    for number in (1, 2):
        recorder = begin(store)
        recorder.file(tmp_path / "weights.bin", folder="model")
        made = store.register(
            model="d-segment", run_id=recorder.run_id, tags={"sha256": "ab"}, alias="challenger"
        )
        assert made == number
    version = store.client.get_model_version_by_alias("d-segment", "challenger")
    assert int(version.version) == 2
    assert version.run_id == recorder.run_id
    assert version.tags == {"sha256": "ab"}


def test_the_newest_of_several_scores_is_shown(store):
    recorder = begin(store)
    recorder.finish("FINISHED")
    for value in (0.5, 0.6):
        store.note_score(recorder.run_id, "finetuned/test_dice", value)
    history = store.client.get_metric_history(recorder.run_id, "finetuned/test_dice")
    assert [(point.step, point.value) for point in history] == [(0, 0.5), (0, 0.6)]
    assert store.run(recorder.run_id).data.metrics["finetuned/test_dice"] == 0.6
    assert store.run(recorder.run_id).info.status == "FINISHED"


def test_scores_for_runs_of_another_home_are_ignored(store):
    store.note_score("0" * 32, "finetuned/test_dice", 0.5)


def test_the_store_contains_no_user_name(store):
    recorder = begin(store)
    run = store.run(recorder.run_id)
    assert run.info.user_id == "medmim"
    assert {key: value for key, value in run.data.tags.items() if key.startswith("mlflow.")} == {
        "mlflow.user": "medmim",
        "mlflow.source.name": "medmim",
        "mlflow.source.type": "LOCAL",
        "mlflow.runName": "a run",
    }
    with sqlite3.connect(store.home / "mlflow.db") as database:
        tables = [name for (name,) in database.execute("select name from sqlite_master where type='table'")]
        values = [
            str(value)
            for table in tables
            for line in database.execute(
                f'select * from "{table}"'
            )  # table names come from the database itself
            for value in line
        ]
    assert getpass.getuser() not in values


def test_a_home_with_spaces_and_accents_works(new_home):
    import shutil

    first = new_home()
    home = first / "my runs é%20"
    home.mkdir()
    shutil.copyfile(first / "mlflow.db", home / "mlflow.db")
    store = Store(home)
    recorder = begin(store)
    recorder.text("a.txt", "words")
    assert store.read_text(store.run(recorder.run_id), "a.txt") == "words"


FIRST_RUN = """
import sys
from pathlib import Path
from medmim.tracking.mlflow_store import Store
print("ready", flush=True)
sys.stdin.readline()
Store(Path(sys.argv[1])).begin(experiment="first", name="a run", tags={"stage": "pretrain"})
"""


def test_processes_that_create_a_home_at_the_same_time_all_record_their_run(tmp_path):
    command = [sys.executable, "-c", FIRST_RUN, str(tmp_path / "home")]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in started:
        process.communicate()
    assert [process.returncode for process in started] == [0, 0, 0]
    assert len(Store(tmp_path / "home").runs(stage="pretrain")) == 3


def test_metric_keys_may_contain_any_class_name(store):
    recorder = begin(store)
    values = {"val/f1_<5 mm": 1.0, "val/f1_>5 mm": 2.0, "val/f1_a/b, (c) & 50%": 3.0, "val/f1_ödem": 4.0}
    values |= {"val/f1__5 mm": 5.0, "val/f1_../x": 6.0, "val/f1_" + "x" * 300: 7.0}
    for step in (1, 2):
        recorder.metrics(values, step=step)
    stored = store.run(recorder.run_id).data.metrics
    assert sorted(stored.values()) == sorted(values.values())
    assert stored["val/f1_ödem"] == 4.0
    assert stored["val/f1__5 mm"] == 5.0


@pytest.mark.parametrize("arm", ["O'Neill's mask", 'of "mesh"', "both ' and \""])
def test_runs_are_found_by_tags_with_quotes(arm, new_home):
    store = Store(new_home())
    run_id = store.begin(experiment="e", name="n", tags={"arm": arm}).run_id
    store.begin(experiment="e", name="n", tags={"arm": arm.replace("'", "_")})
    assert run_id in [run.info.run_id for run in store.runs(arm=arm)]
    assert {run.data.tags["arm"] for run in store.runs(arm=arm)} == {arm}
