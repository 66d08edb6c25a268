"""Whichever way the server fails, runs finish, and a later sync uploads everything exactly once."""

import shutil

import pytest
from local_server import free_port
from mlflow import MlflowClient
from server_faults import FAULTS
from shaky_server import ShakyServer

from medmim.errors import RunError, UsageError
from medmim.tracking.mlflow_store import Store
from medmim.tracking.run_copies import copy_of
from medmim.tracking.run_ids import ORIGIN
from medmim.tracking.study_runs import PARENT
from medmim.tracking.sync import BackgroundUploader, server_of, sync
from medmim.tracking.upload import RECORD


@pytest.fixture(scope="module")
def server(new_home):
    shaky = ShakyServer(new_home())
    yield shaky
    shaky.close()


@pytest.fixture
def store(new_home, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "4")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return Store(new_home())


def begin(store, **tags):
    return store.begin(experiment="mirrored", name="a run", tags={"stage": "pretrain", **tags})


def work(recorder, *, steps=12):
    recorder.settings({"lr": 0.1})
    for step in range(steps):
        recorder.metrics({"train/loss": 1 / (step + 1), "train/lr": 0.1}, step=step)
    recorder.text("cases.jsonl", '{"dice": 0.5}\n')
    recorder.finish("FINISHED")


def remote(server):
    return MlflowClient(tracking_uri=server.uri, registry_uri=server.uri)


def copies_there(server, run_id):
    client = remote(server)
    experiments = [one.experiment_id for one in client.search_experiments()]
    return client.search_runs(experiments, filter_string=f"tags.`{ORIGIN}` = '{run_id}'")


def assert_equal(server, store, run_id):
    """Assert that the server contains exactly one copy of a run, equal to the local run."""
    (there,) = copies_there(server, run_id)
    client, here = remote(server), store.run(run_id)
    assert there.info.status == here.info.status
    assert there.info.run_name == here.info.run_name
    assert (there.info.start_time, there.info.end_time) == (here.info.start_time, here.info.end_time)
    assert there.data.params == here.data.params
    tags = {key: value for key, value in there.data.tags.items() if not key.startswith("medmim.")}
    assert {**tags, PARENT: ""} == {**here.data.tags, PARENT: ""}
    for key in here.data.metrics:
        points = [
            [(point.step, point.timestamp, point.value) for point in one.get_metric_history(run, key)]
            for one, run in ((store.client, run_id), (client, there.info.run_id))
        ]
        assert points[0] == points[1], key
    local = copy_of(store, here)
    listed = {entry.path for entry in client.list_artifacts(there.info.run_id)}
    assert {path.split("/")[0] for path in local.artifacts} | {RECORD} == listed or not local.artifacts
    return there


@pytest.mark.parametrize("fault", FAULTS, ids=lambda name: name.replace(" ", "-"))
def test_a_run_finishes_although_the_server_fails(fault, server, store):
    recorder = begin(store)
    with (
        server.failing(FAULTS[fault]),
        BackgroundUploader(store, recorder.run_id, server.uri, every_s=0.02, patience_s=0.2) as mirror,
    ):
        work(recorder)
    assert store.run(recorder.run_id).info.status == "FINISHED"
    assert len(store.client.get_metric_history(recorder.run_id, "train/loss")) == 12
    mirror.wait()
    sync(store, server.uri, pause_s=0.01)
    assert_equal(server, store, recorder.run_id)
    again = sync(store, server.uri)
    assert (again.new_runs, again.points, again.artifacts, again.versions) == (0, 0, 0, 0)


def test_a_run_is_completely_uploaded_when_it_ends(server, store):
    recorder = begin(store)
    with BackgroundUploader(store, recorder.run_id, server.uri, every_s=0.05, patience_s=60.0) as mirror:
        work(recorder)
    assert mirror.complete
    assert_equal(server, store, recorder.run_id)


def test_training_does_not_wait_for_the_server(server, store):
    """Logging writes to the local store only, so a hanging server does not delay it."""
    recorder = begin(store)
    with (
        server.failing("hang"),
        BackgroundUploader(store, recorder.run_id, server.uri, every_s=0.0, patience_s=0.0) as mirror,
    ):
        work(recorder)
        assert not mirror.complete
    mirror.wait()


def family(store, tmp_path):
    """Record the run of a study, an arm, and a training with a registered model."""
    (tmp_path / "weights.safetensors").write_bytes(b"weights")
    root = begin(store, role="study", dataset="d", dataset_hash="ab" * 32)
    arm = begin(store, role="arm", **{PARENT: root.run_id})
    cell = begin(store, role="cell", **{PARENT: arm.run_id})
    work(cell, steps=3)
    cell.file(tmp_path / "weights.safetensors", folder="model")
    store.register(model="d-segment", run_id=cell.run_id, tags={"sha256": "ab"}, alias="challenger")
    for recorder in (arm, root):
        recorder.finish("FINISHED")
    return root, arm, cell


def assert_family(server, store, runs):
    root, arm, cell = [assert_equal(server, store, run.run_id) for run in runs]
    assert arm.data.tags[PARENT] == root.info.run_id
    assert cell.data.tags[PARENT] == arm.info.run_id
    assert [one.dataset.name for one in root.inputs.dataset_inputs] == ["d"]
    client = remote(server)
    mine = [
        one
        for one in client.search_model_versions("name = 'd-segment'")
        if one.tags[ORIGIN] == runs[2].run_id
    ]
    assert [one.run_id for one in mine] == [cell.info.run_id]
    assert mine[0].tags["imported_aliases"] == "challenger"
    assert client.get_registered_model("d-segment").aliases == {}
    assert mine[0].source == f"{cell.info.artifact_uri}/model"


def test_parents_models_and_datasets_are_uploaded(server, store, tmp_path):
    runs = family(store, tmp_path)
    sent = sync(store, server.uri)
    assert (sent.runs, sent.new_runs, sent.versions) == (3, 3, 1)
    assert_family(server, store, runs)


@pytest.mark.parametrize("fault", ["down", "lost answer", "half answer"])
@pytest.mark.parametrize(
    "good", [pytest.param(good, marks=pytest.mark.slow if good % 15 else ()) for good in range(0, 40, 5)]
)
def test_an_interrupted_sync_is_resumed(fault, good, server, store, tmp_path):
    """The server fails permanently after some requests; the next sync completes the upload."""
    runs = family(store, tmp_path)
    with server.failing(lambda number: fault if number > good else None):
        try:
            sync(store, server.uri, pause_s=0.0)
        except RunError as error:
            assert "no data is lost or duplicated" in str(error)  # noqa: PT017  # the sync may also have succeeded
    sync(store, server.uri, pause_s=0.01)
    assert_family(server, store, runs)


def test_later_changes_are_uploaded(server, store):
    recorder = begin(store)
    recorder.metrics({"a": 1.0}, step=0)
    recorder.text("report.html", "old")
    sync(store, server.uri)
    assert copies_there(server, recorder.run_id)[0].info.status == "RUNNING"
    recorder.metrics({"a": 2.0, "b": float("nan")}, step=1)
    recorder.text("report.html", "new")
    recorder.tags({"late": "yes"})
    recorder.finish("FAILED")
    sent = sync(store, server.uri)
    assert (sent.new_runs, sent.points, sent.artifacts) == (0, 2, 1)
    there = assert_equal_but_nan(server, recorder.run_id)
    assert there.data.tags["late"] == "yes"
    assert there.info.status == "FAILED"


def assert_equal_but_nan(server, run_id):
    (there,) = copies_there(server, run_id)
    assert [point.value for point in remote(server).get_metric_history(there.info.run_id, "a")] == [1.0, 2.0]
    return there


def test_duplicate_copies_are_merged(server, store):
    recorder = begin(store)
    recorder.finish("FINISHED")
    sync(store, server.uri)
    client = remote(server)
    (there,) = copies_there(server, recorder.run_id)
    client.create_run(there.info.experiment_id, tags={ORIGIN: recorder.run_id})
    sync(store, server.uri)
    assert len(copies_there(server, recorder.run_id)) == 1


@pytest.mark.parametrize(
    ("fault", "user", "message"),
    [
        (
            "401",
            "",
            r"requires a user name after 0 of 1 run; .*: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_P",
        ),
        (
            "401",
            "ada",
            r"rejected the user name and password after 0 of 1 run; .*: correct MLFLOW_TRACKING_USERNAME",
        ),
        (
            "403",
            "ada",
            r"does not allow this user to write after 0 of 1 run; .*: ask its administrator for the per",
        ),
        (
            "host",
            "ada",
            r"accepts no requests to this host name after 0 of 1 run; .*: use a name that it was",
        ),
    ],
)
def test_refusals_are_reported_with_a_remedy_and_without_retries(
    server, store, monkeypatch, fault, user, message
):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", user)
    begin(store).finish("FINISHED")
    with server.failing(fault), pytest.raises(RunError, match=message):
        sync(store, server.uri)
    assert server._count <= 2


def test_a_server_with_users_forbids_runs_that_it_does_not_have(server, store):
    """MLflow's basic-auth answers 403, not 404, to a user who asks for an unknown run."""
    recorder = begin(store)
    work(recorder)
    asked = f"run_id={recorder.run_id}"
    with server.failing(lambda number: "403" if asked in server.last else None):
        assert sync(store, server.uri).new_runs == 1
        assert sync(store, server.uri).new_runs == 0
    assert_equal(server, store, recorder.run_id)


def test_a_refused_file_is_reported_as_a_refused_run(server, store):
    recorder = begin(store)
    work(recorder)
    refused = server.failing(lambda number: "403" if "mlflow-artifacts" in server.last else None)
    with refused, pytest.raises(RunError, match="does not allow this user to write after 0 of 1 run;"):
        sync(store, server.uri)
    sync(store, server.uri)
    assert_equal(server, store, recorder.run_id)


def test_an_address_without_a_server_is_reported(store):
    begin(store).finish("FINISHED")
    with pytest.raises(RunError, match=r"cannot be reached after 0 of 1 run; .*: check its address and that"):
        sync(store, f"http://127.0.0.1:{free_port()}", pause_s=0.01)


def test_the_local_store_is_not_a_server(store, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert server_of(store) is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    assert server_of(store) is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert server_of(store) == "http://127.0.0.1:1"
    for folder in ("file:mlruns", "mlruns"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", folder)
        with pytest.raises(UsageError, match=r"expected the address of an MLflow server .* got a folder"):
            server_of(store)


def test_another_home_can_serve_as_the_server(store, new_home, tmp_path, monkeypatch):
    # the server of the other tests runs in this process; its environment variables would apply here too
    monkeypatch.delenv("_MLFLOW_SERVER_ARTIFACT_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)  # MLflow stores artifacts of a bare database in the working folder
    family(store, tmp_path)
    other = Store(new_home())
    shutil.rmtree(other.home / "artifacts", ignore_errors=True)
    assert sync(store, other.uri).new_runs == 3
    assert sync(store, other.uri).points == 0


def test_a_run_deleted_locally_is_deleted_on_the_server(server, store):
    kept, given_up = begin(store), begin(store)
    for recorder in (kept, given_up):
        work(recorder)
    sync(store, server.uri)
    store.discard(given_up.run_id)
    sync(store, server.uri)
    assert len(copies_there(server, kept.run_id)) == 1
    assert copies_there(server, given_up.run_id) == []


def test_mlflow_prints_nothing_between_our_lines(server, store, capfd):
    recorder = begin(store)
    work(recorder)
    sync(store, server.uri)
    client = remote(server)
    [run] = client.search_runs([one.experiment_id for one in client.search_experiments()], max_results=1)
    client.download_artifacts(run.info.run_id, "")
    client.set_terminated(run.info.run_id)  # MLflow would name the address of the run here
    assert capfd.readouterr() == ("", "")
