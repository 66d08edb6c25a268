import shutil
import sqlite3

import pytest

from medmim.tracking.database import DATABASE
from medmim.tracking.mlflow_store import Store


@pytest.fixture(scope="module")
def moved(new_home, tmp_path_factory):
    """A copy of a home with a run, a model and an experiment elsewhere; the old folder is gone."""
    old = Store(new_home())
    recorder = old.begin(experiment="test", name="a run", tags={"stage": "finetune"})
    folder = old.artifact(old.run(recorder.run_id))  # MLflow keeps the address of a run that it wrote to
    folder.mkdir(parents=True)
    (folder / "note.txt").write_text("content")
    recorder.finish("FINISHED")
    old.register(model="scans", run_id=recorder.run_id, tags={}, alias="challenger")
    old.client.create_experiment("elsewhere", artifact_location="file:///mnt/elsewhere/artifacts/mine")
    home = tmp_path_factory.mktemp("moved") / "a new place"
    shutil.copytree(old.home, home)
    shutil.rmtree(old.home)
    return home, old.home, recorder.run_id


def test_artifacts_of_a_moved_home_are_read_without_changing_it(moved):
    home, _, run_id = moved
    before = (home / DATABASE).read_bytes()
    store = Store(home, reading=True)
    assert store.read_text(store.run(run_id), "note.txt") == "content"
    assert (home / DATABASE).read_bytes() == before


def test_nothing_is_written_to_the_old_place(moved):
    home, old, run_id = moved
    store = Store(home)
    store.resume(run_id).text("late.txt", "late")
    fresh = store.begin(experiment="test", name="another", tags={})
    fresh.text("note.txt", "content")
    assert not old.exists()
    assert store.read_text(store.run(run_id), "late.txt") == "late"
    assert (store.artifact(store.run(fresh.run_id)) / "note.txt").is_file()
    (version,) = store.client.search_model_versions()
    assert version.source.startswith(store.artifacts.as_uri())
    elsewhere = store.client.get_experiment_by_name("elsewhere")
    assert elsewhere.artifact_location == "file:///mnt/elsewhere/artifacts/mine"
    with sqlite3.connect(home / DATABASE) as connection:
        text = "\n".join(connection.iterdump())
    connection.close()
    assert str(old) not in text.replace(f"{old}/mlruns", "")
