"""Copies of runs: their values as JSON and back, their ancestors, and their files."""

import json
import math

import pytest

from medmim.tracking.mlflow_store import Store
from medmim.tracking.run_copies import RunCopy, copy_of, with_parents
from medmim.tracking.study_runs import PARENT


@pytest.fixture
def recorded(home, tmp_path):
    """A store, and the ids of a parent and of its child with metrics, an artifact and a model."""
    store = Store(home)
    parent = store.begin(experiment="e", name="parent", tags={})
    child = store.begin(experiment="e", name="child", tags={PARENT: parent.run_id, "arm": "scratch"})
    child.metrics({"a": math.nan, "b": 0.5}, step=3)
    child.text("notes/é.txt", "text")
    store.register(model="m", run_id=child.run_id, tags={"sha256": "ab"}, alias="challenger")
    child.finish("FINISHED")
    return store, parent.run_id, child.run_id


def test_a_copy_survives_json_with_nan(recorded):
    store, parent, child = recorded
    copy = copy_of(store, store.run(child))
    content = json.dumps(copy.as_json(), allow_nan=False)
    again = RunCopy.from_json(json.loads(content), folder=copy.folder)
    assert json.dumps(again.as_json(), allow_nan=False) == content
    assert again.digest == copy.digest
    assert [(key, step) for key, _, _, step in again.metrics] == [("a", 3), ("b", 3)]
    assert math.isnan(again.metrics[0][1])
    assert (copy.parent, copy.name, copy.status) == (parent, "child", "FINISHED")
    assert PARENT not in copy.tags
    assert [(one.model, one.origin, one.aliases) for one in copy.versions] == [("m", child, ["challenger"])]


def test_links_among_the_artifacts_are_left_out(recorded, tmp_path):
    store, _, child = recorded
    (tmp_path / "secret").write_text("secret")
    (store.artifact(store.run(child)) / "link").symlink_to(tmp_path / "secret")
    assert set(copy_of(store, store.run(child)).artifacts) == {"notes/é.txt"}


def test_ancestors_come_before_their_runs(recorded):
    store, parent, child = recorded
    ordered = with_parents(store, [store.run(child)])
    assert [run.info.run_id for run in ordered] == [parent, child]


@pytest.mark.parametrize("change", [{"more": 1}, {"status": "DONE"}, {"start_time": "soon"}])
def test_values_of_another_form_are_rejected(recorded, change):
    store, _, child = recorded
    copy = copy_of(store, store.run(child))
    with pytest.raises(ValueError, match=f"1 validation error for .*\n{next(iter(change))}"):
        RunCopy.from_json({**copy.as_json(), **change}, folder=copy.folder)
