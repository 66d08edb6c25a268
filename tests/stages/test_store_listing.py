"""Runs and models are listed from the database as the MLflow client reports them."""

import sqlite3
import subprocess
import sys
from dataclasses import replace

import pytest

from medmim.errors import RunError
from medmim.stages.store_listing import list_models, list_runs
from medmim.tracking.mlflow_store import Store


def test_runs_have_score_interval_and_status(stored):
    home, pre, tuned, control = stored
    runs = {one.run_id: one for one in list_runs(home)}
    assert runs.keys() == {pre, tuned, control}
    assert (runs[tuned].score, runs[tuned].interval, runs[tuned].task) == (0.8, (0.7, 0.9), "segment")
    assert (runs[control].state, runs[control].score) == ("FAILED", None)
    assert runs[pre].task == "pretrain"


def test_models_have_status_aliases_and_run(stored):
    home, _, tuned, _ = stored
    [model] = list_models(home)
    assert (model.status, model.aliases, model.run.run_id) == ("candidate", ("challenger",), tuned)
    Store(home).client.set_registered_model_alias("scans-segment", "champion", "1")
    assert list_models(home)[0].status == "champion"
    assert replace(model, tags={"status": "champion"}).status == "candidate"  # of a pack of an older version


def test_a_store_of_an_older_mlflow_is_not_called_damaged(stored):
    home = stored[0]
    with sqlite3.connect(home / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'bd07f7e963c5'")
        database.execute("DROP TABLE registered_model_aliases")
    database.close()
    with pytest.raises(RunError, match=r"was written by an older MLflow .*: run `medmim doctor --repair`"):
        list_models(home)


def test_an_empty_home_has_no_runs(tmp_path):
    assert list_runs(tmp_path) == []
    assert list_models(tmp_path) == []
    (tmp_path / "mlflow.db").write_text("no database, but longer than a header of SQLite would be" * 9)
    with pytest.raises(RunError, match="is not an SQLite database: run `medmim doctor --repair`"):
        list_runs(tmp_path)


def test_lists_load_neither_mlflow_nor_torch(stored):
    program = (
        "import sys; from medmim.cli import main; main(['models'], standalone_mode=False); "
        "main(['runs'], standalone_mode=False); assert not {'mlflow', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
