"""An upload to another store: a copy of everything, once, without the authority of the original."""

import pytest

from medmim.tracking.mlflow_store import Store
from medmim.tracking.run_copies import copy_of
from medmim.tracking.run_ids import ORIGIN
from medmim.tracking.upload import RECORD, Uploader


@pytest.fixture
def local(new_home):
    return Store(new_home())


@pytest.fixture
def other(new_home):
    return Store(new_home())


def recorded(store):
    recorder = store.begin(experiment="e", name="n", tags={"stage": "finetune"})
    recorder.metrics({"a": 0.5}, step=0)
    recorder.text("cases.jsonl", "{}\n")
    tags = {"status": "candidate", "contamination": "none", "sha256": "ab"}
    store.register(model="m", run_id=recorder.run_id, tags=tags, alias="champion")
    recorder.finish("FINISHED")
    return recorder.run_id


def test_a_second_upload_sends_nothing(local, other):
    run_id = recorded(local)
    first, again = (Uploader(other.client, other.experiment) for _ in range(2))
    there = first.put(copy_of(local, local.run(run_id)))
    assert (first.sent.new_runs, first.sent.points, first.sent.artifacts, first.sent.versions) == (1, 1, 1, 1)
    assert again.put(copy_of(local, local.run(run_id))) == there
    assert (again.sent.new_runs, again.sent.points, again.sent.artifacts, again.sent.versions) == (0, 0, 0, 0)
    copy = other.run(there)
    assert (copy.data.tags[ORIGIN], copy.info.status, copy.data.metrics) == (run_id, "FINISHED", {"a": 0.5})
    assert RECORD in {entry.path for entry in other.client.list_artifacts(there)}


def test_aliases_and_verdicts_have_no_effect_in_the_other_store(local, other):
    there = Uploader(other.client, other.experiment).put(copy_of(local, local.run(recorded(local))))
    [version] = other.client.search_model_versions("name = 'm'")
    assert version.run_id == there
    assert other.client.get_registered_model("m").aliases == {}
    assert version.tags["imported_aliases"] == "champion"
    assert version.tags["imported_contamination"] == "none"
    assert not {"status", "contamination"} & version.tags.keys()


def test_an_original_is_left_alone_and_a_dropped_copy_deleted(local, other):
    run_id = recorded(local)
    uploader = Uploader(local.client, local.experiment)
    assert uploader.put(copy_of(local, local.run(run_id))) == run_id
    assert uploader.sent.new_runs == 0
    uploader = Uploader(other.client, other.experiment)
    there = uploader.put(copy_of(local, local.run(run_id)))
    Uploader(other.client, other.experiment).drop([run_id])
    assert other.client.get_run(there).info.lifecycle_stage == "deleted"
