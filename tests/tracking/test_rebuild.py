import math

import pytest
from store_faults import count, damage, moved

from medmim.tracking.database import DATABASE
from medmim.tracking.migration import back_up, backups
from medmim.tracking.mlflow_store import Store
from medmim.tracking.rebuild import rebuild, records, write_missing_records
from medmim.tracking.run_copies import copy_of


def train(store, **tags):
    recorder = store.begin(experiment="a study", name="a run", tags={"stage": "finetune", **tags})
    recorder.settings({"lr": 0.1, "size": (8, 8)})
    recorder.metrics({"train/loss": 2.0, "val/loss": math.nan}, step=1)
    recorder.metrics({"train/loss": 1.0}, step=2)
    recorder.finish("FINISHED")
    return recorder.run_id


@pytest.fixture
def store(new_home):
    return Store(new_home())


def values(store, run_id):
    copied = copy_of(store, store.run(run_id))
    return {**copied.as_json(), "end_time": 0, "artifacts": {}, "versions": []}


def test_a_store_without_backup_is_rebuilt_from_the_records_of_its_runs(store, tmp_path):
    run_id, other = train(store), train(store)
    store.register(model="scans", run_id=other, tags={}, alias="challenger")
    store.client.delete_model_version("scans", "1")
    store.register(model="scans", run_id=run_id, tags={"dataset_hash": "d"}, alias="challenger")
    store.client.set_registered_model_alias("scans", "champion", "2")
    store.note_registry()
    before = values(store, run_id)
    home = moved(store, tmp_path)
    damage(home / DATABASE)
    damaged = (home / DATABASE).read_bytes()
    done = rebuild(home)
    assert (done.backup, done.runs, done.versions) == (None, 2, 1)
    assert done.kept.read_bytes() == damaged
    rebuilt = Store(home)
    assert values(rebuilt, run_id) == before
    version = rebuilt.client.get_model_version_by_alias("scans", "champion")
    assert (int(version.version), version.run_id, version.tags) == (2, run_id, {"dataset_hash": "d"})


def test_a_backup_is_completed_with_later_runs(store, tmp_path):
    earlier = train(store)
    back_up(store.home)
    store.recorder(earlier).metrics({"finetuned/test_dice": 0.5}, step=0)
    later = train(store)
    home = moved(store, tmp_path)
    (home / DATABASE).unlink()
    done = rebuild(home)
    assert (done.backup, done.runs, done.kept) == (backups(home)[0], 2, None)
    rebuilt = Store(home)
    assert rebuilt.run(earlier).data.metrics["finetuned/test_dice"] == 0.5
    assert rebuilt.run(later).info.status == "FINISHED"
    assert len(rebuilt.client.get_metric_history(earlier, "train/loss")) == 2


def test_a_record_that_was_cut_off_is_read_up_to_that_line(store, tmp_path):
    run_id = train(store)
    home = moved(store, tmp_path)
    (record,) = records(home)
    record.write_text(record.read_text()[:-20])
    (home / DATABASE).unlink()
    rebuild(home)
    assert count(home / DATABASE, "runs") == 1
    assert Store(home).run(run_id).info.status == "RUNNING"


def test_runs_of_older_versions_get_a_record(store, tmp_path):
    run_id = train(store)
    before = values(store, run_id)
    store.record(run_id).path.unlink()
    assert write_missing_records(store) == 1
    assert write_missing_records(store) == 0
    home = moved(store, tmp_path)
    (home / DATABASE).unlink()
    rebuild(home)
    assert values(Store(home), run_id) == before
