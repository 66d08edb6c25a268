import contextlib
import sqlite3

import pytest
import tiny
from click.testing import CliRunner

from medmim.cli import main
from medmim.errors import RunError, UnregisteredError
from medmim.stages.registration import register, register_later
from medmim.stages.run_lifecycle import RunResult, managed_run
from medmim.stages.study.training_process import Job, run_here
from medmim.tracking.database import DATABASE
from medmim.tracking.mlflow_store import Store


@contextlib.contextmanager
def failing_registry(home):
    """Let the store reject new model versions."""
    rename(home, "model_versions", "away")
    yield
    rename(home, "away", "model_versions")


def rename(home, table, name):
    with contextlib.closing(sqlite3.connect(home / DATABASE)) as database, database:
        database.execute(f"ALTER TABLE {table} RENAME TO {name}")


def test_a_training_whose_registration_fails_is_finished_and_registered_later(
    tiny_dataset, home, capsys, monkeypatch
):
    Store(home)
    words = {**tiny.TINY, "steps": 1, "num_evaluations": 1, "init": "scratch", "data": tiny_dataset}
    with failing_registry(home):
        outcome = run_here(Job("finetune", "title", "digest", words, {}), home)
    store, run_id = Store(home), outcome.run_id
    run = store.run(run_id)
    assert run.info.status == "FINISHED"
    assert "cost/minutes" in run.data.metrics
    assert (store.artifact(run, "model") / "weights.safetensors").is_file()
    command = f"medmim models register {run_id[:8]}"
    said = capsys.readouterr().err
    assert "its model was not registered (MlflowException: " in said
    assert f"run `{command}`" in said
    monkeypatch.setenv("MEDMIM_HOME", str(home))
    for _ in range(2):
        done = CliRunner().invoke(main, command.split()[1:])
        following = "next  medmim predict SCANS --model tiny-segment:1"
        assert done.stdout.splitlines() == ["registered tiny-segment:1", following]
    [version] = store.client.search_model_versions("name = 'tiny-segment'")
    assert version.run_id == run_id
    assert version.tags["lineage"].startswith(run_id)


def test_a_failed_registration_names_the_command_and_notes_the_score_later(home, tmp_path):
    store = Store(home)
    origin = store.begin(experiment="e", name="pretraining", tags={}).run_id
    recorder = store.begin(experiment="e", name="n", tags={"stage": "finetune"})
    result = RunResult(recorder.run_id, tmp_path / "weights", {}, tmp_path / "panel.png")
    expected = rf"finished with weights .*weights'.*: run `medmim models register {recorder.run_id[:8]}`"
    with failing_registry(home), pytest.raises(UnregisteredError, match=expected), managed_run(recorder):
        register(store, result, model="m", tags={"pretraining_run": origin}, score={"finetuned/dice": 0.5})
    assert store.run(recorder.run_id).info.status == "FINISHED"
    assert register_later(home, recorder.run_id) == ("m", 1)
    assert store.run(origin).data.metrics == {"finetuned/dice": 0.5}


def test_an_id_without_a_finished_fine_tuning_is_rejected(home):
    with pytest.raises(
        RunError, match=r"models register abc: expected .* `medmim finetune`, got the beginning of no run id"
    ):
        register_later(home, "abc")


@pytest.mark.parametrize("text", ["{}", '{"model": 3}', "[1"], ids=["empty", "wrong", "cut"])
def test_a_damaged_file_of_a_registration_is_named(text, home):
    folder = home / "checkpoints" / "deadbeef"
    folder.mkdir(parents=True)
    (folder / "registration.json").write_text(text)
    with pytest.raises(RunError, match=r"registration.json' is damaged: expected model, tags and score"):
        register_later(home, "dead")
