import json

from medmim.tracking.mlflow_store import Store
from medmim.tracking.registry_snapshot import SNAPSHOT, restore_snapshot


def test_the_snapshot_contains_versions_with_their_tags_and_aliases(new_home):
    store = Store(new_home())
    run_id = store.begin(experiment="e", name="n", tags={}).run_id
    store.register(model="m", run_id=run_id, tags={"task": "segment"}, alias="challenger")
    (model,) = json.loads((store.home / SNAPSHOT).read_text())["models"]
    assert model["aliases"] == {"challenger": 1}
    assert model["versions"] == [{"version": 1, "run_id": run_id, "tags": {"task": "segment"}}]
    assert restore_snapshot(store.client, store.home) == 0
