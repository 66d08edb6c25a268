"""Acts of users and of `mlflow gc` on a store, each followed by the commands that use it."""

import json

import pytest
from store_faults import moved, remove_for_good, server_acts, tidying

from medmim.config.study import DIGEST
from medmim.errors import MedmimError, RunError
from medmim.stages.compare import compare_study
from medmim.stages.model_lookup import find_model
from medmim.stages.store_listing import list_models
from medmim.stages.ui import pages
from medmim.tracking.comparison.champion import champion_of, champion_runs
from medmim.tracking.comparison.runs import CASES, find_runs
from medmim.tracking.database import uri_of
from medmim.tracking.mlflow_store import Store
from medmim.tracking.run_ids import ORIGIN
from medmim.tracking.study_archive import pack
from medmim.tracking.study_runs import PARENT, runs_of_study
from medmim.tracking.sync import sync
from medmim.training.weights import WEIGHTS

MODEL = "scans-segment"
TAGS = {"dataset_hash": "d", "dataset": "scans", "split_hash": "s", "task": "segment", "labelled": "3"}


def finished(store, parent="", **tags):
    """Record a finished run with the artifacts that `compare` reads."""
    tags = {**TAGS, "study": "quick", "seed": "0", "arm": "mae", "metric": "dice", **tags}
    recorder = store.begin(experiment="quick", name="a run", tags=tags | ({PARENT: parent} if parent else {}))
    recorder.settings({"lr": 0.1})
    recorder.metrics({"test/dice": 0.5, "best/val_dice": 0.5}, step=0)
    rows = [{"case": f"c{n}", "patient": f"p{n}", "label": "core", "dice": 0.5, "hd95_mm": 1} for n in (0, 1)]
    recorder.text(CASES, "".join(json.dumps(row) + "\n" for row in rows))
    (store.checkpoints(recorder.run_id) / WEIGHTS).write_bytes(b"weights")
    recorder.finish("FINISHED")
    return recorder.run_id


@pytest.fixture(scope="module")
def study_store(new_home):
    """A study with a pretraining, a fine-tuning from it and one from scratch, and two registered models."""
    store = Store(new_home())
    root = store.begin(experiment="quick", name="quick", tags={"study": "quick", "role": "study"})
    root.finish("FINISHED")
    pretrained = finished(store, root.run_id, stage="pretrain", role="pretraining")
    for seed, arm in enumerate(("mae", "scratch")):
        origin = pretrained if arm == "mae" else ""
        tags = {"stage": "finetune", "role": "cell", "arm": arm, "pretraining_run": origin, DIGEST: arm}
        run_id = finished(store, root.run_id, seed=str(seed), **tags)
        store.register(model=MODEL, run_id=run_id, tags={"contamination": "unknown"}, alias="challenger")
    store.client.set_registered_model_alias(MODEL, "champion", "1")
    return store


ACTS = tidying("quick", MODEL)
SERVER_ACTS = server_acts("quick", MODEL)
COMMANDS = {
    "models": lambda store, folder: list_models(store.home),
    "champion": lambda store, folder: champion_runs(store, champion_of(store, MODEL)),
    "predict": lambda store, folder: find_model(None, store.home, print),
    "compare": lambda store, folder: find_runs(store, ()),
    "compare --study": lambda store, folder: compare_study("quick", home=store.home),
    "ui": lambda store, folder: pages(store.home, port=5000),
    "pack": lambda store, folder: pack(store, runs_of_study(store, "quick"), folder / "quick.zip"),
    "pretrain": lambda store, folder: finished(store, stage="pretrain"),
    "finetune": lambda store, folder: store.register(
        model=MODEL, run_id=finished(store, stage="finetune"), tags={}, alias="challenger"
    ),
}


@pytest.mark.parametrize("act", ACTS)
def test_every_command_works_or_gives_one_line_after(act, study_store, tmp_path):
    store = Store(moved(study_store, tmp_path))
    ACTS[act](store)
    lines = []
    for command in COMMANDS.values():
        try:
            command(store, tmp_path)
        except MedmimError as error:
            lines.append(str(error))
    assert all(line and "\n" not in line for line in lines)
    assert len(store.runs(study="quick", stage="finetune")) >= 1  # the training after the act is kept


@pytest.fixture
def store(new_home):
    return Store(new_home())


@pytest.mark.parametrize("deleted", ["run", "experiment"])
def test_what_is_deleted_during_a_training_is_restored(deleted, store, caplog):
    recorder = store.begin(experiment="quick", name="a run", tags={})
    run = store.run(recorder.run_id)
    if deleted == "run":
        store.client.delete_run(recorder.run_id)
    else:
        store.client.delete_experiment(run.info.experiment_id)
    recorder.metrics({"train/loss": 1.0}, step=1)
    recorder.finish("FINISHED")
    assert store.runs()[0].data.metrics == {"train/loss": 1.0}
    assert store.register(model=MODEL, run_id=recorder.run_id, tags={}, alias="challenger") == 1
    assert "deleted: restored" in caplog.text


def test_a_run_that_is_removed_during_a_training_keeps_its_record(store, caplog):
    recorder = store.begin(experiment="quick", name="a run", tags={})
    recorder.text("note.txt", "content")
    remove_for_good(store, recorder.run_id)
    recorder.metrics({"train/loss": 1.0}, step=1)
    recorder.finish("FINISHED")
    assert caplog.text.count("its folder keeps its record") == 1
    assert {"status"} <= set(store.record(recorder.run_id).entries()[-1])
    with pytest.raises(RunError, match="was removed from the store and cannot be registered: its weights"):
        store.register(model=MODEL, run_id=recorder.run_id, tags={}, alias="challenger")


@pytest.mark.parametrize("act", SERVER_ACTS)
def test_what_is_deleted_or_renamed_on_the_server_is_there_again_after_sync(
    act, study_store, new_home, tmp_path, monkeypatch
):
    monkeypatch.delenv("_MLFLOW_SERVER_ARTIFACT_ROOT", raising=False)  # set by servers of other tests
    monkeypatch.chdir(tmp_path)  # MLflow stores artifacts of a bare database in the working folder
    server = Store(new_home())
    sync(study_store, server.uri)
    SERVER_ACTS[act](server)
    sync(study_store, uri_of(server.home / "mlflow.db"))
    copies = server.runs()
    assert sorted(run.data.tags[ORIGIN] for run in copies) == sorted(study_store.run_ids())
    assert all(server.artifact(run, CASES).is_file() for run in copies if "seed" in run.data.tags)
    versions = server.client.search_model_versions(f"name = '{MODEL}'")
    trained = {run.info.run_id for run in copies if run.data.tags.get("role") == "cell"}
    assert {version.run_id for version in versions} >= trained


def test_the_newest_run_is_the_last_one_even_if_the_clock_was_set_back(store):
    first = store.begin(experiment="quick", name="in the future", tags={}).run_id
    year_ms = 365 * 24 * 3600 * 1000
    late = store.client.create_run(store.experiment("quick"), store.run(first).info.start_time + year_ms)
    last = store.begin(experiment="quick", name="after the clock was set back", tags={}).run_id
    assert [run.info.run_id for run in store.runs(limit=2)] == [last, late.info.run_id]
