"""A dataset and a home folder written by version 0.1.0 are still read, resumed and predicted with."""

import contextlib
import json
import sqlite3
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from interruption import PowerCutError
from lightning.pytorch.callbacks import Callback

from medmim.cli import main
from medmim.config.runs import PretrainSettings
from medmim.stages.export.run import export
from medmim.stages.predict.run import predict
from medmim.stages.pretrain.run import pretrain
from medmim.stages.resumption import to_resume
from medmim.tracking.mlflow_store import Store
from medmim.training.resume.checkpoint_files import read_state, verified_state

ARCHIVE = Path(__file__).parent.parent / "fixtures" / "store_0_1_0.tar.gz"
PLACEHOLDER = "/PLACEHOLDER"  # stands for the folder of dataset and home in the archive
PATHS = {
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
    "experiments": "artifact_location",
    "model_versions": "source, storage_location",
}


@pytest.fixture
def old(tmp_path, monkeypatch):
    """Unpack the archive; return the folders of its dataset and home."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    root = tmp_path / "store_0_1_0"
    with contextlib.closing(sqlite3.connect(root / "home" / "mlflow.db")) as database, database:
        for table, columns in PATHS.items():
            for column in columns.split(", "):
                database.execute(
                    f"update {table} set {column} = replace({column}, ?, ?)",
                    (PLACEHOLDER, str(root)),
                )
    monkeypatch.setenv("MEDMIM_HOME", str(root / "home"))
    return SimpleNamespace(data=root / "dataset", home=root / "home")


def test_its_runs_are_compared_and_its_models_listed(old):
    compared = CliRunner().invoke(main, ["compare", "--json"])
    assert compared.exit_code == 0, compared.output
    assert "scratch" in compared.output
    listed = CliRunner().invoke(main, ["models", "--json"])
    assert listed.exit_code == 0, listed.output
    models = json.loads(listed.stdout.splitlines()[-1])["models"]
    assert [(one["model"], one["version"]) for one in models] == [("tiny-segment", 2), ("tiny-segment", 1)]


def test_its_registered_model_predicts_and_its_encoder_is_exported(old, tmp_path):
    result = predict(old.data, tmp_path / "out", home=old.home, model="tiny-segment:1", log=str)
    assert len(result.volumes) == 6
    made = export("safetensors", data=old.data, home=old.home, out=tmp_path / "e.safetensors", log=str)
    assert made.path.is_file()
    assert made.difference == 0


class StopAfterOneStep(Callback):
    """End the training after its first step, and record the step."""

    step = 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.step = trainer.global_step
        raise PowerCutError("power cut")


def test_its_interrupted_run_is_resumed_at_its_step(old):
    store = Store(old.home)
    settings, run_id = to_resume(PretrainSettings, "pretrain", "latest", home=old.home, data=old.data)
    saved = read_state(verified_state(store.checkpoints(run_id)))["global_step"]
    stop = StopAfterOneStep()
    with pytest.raises(PowerCutError, match="power cut"):
        pretrain(settings, home=old.home, resume=run_id, callbacks=[stop])
    assert 0 < saved < 400
    assert stop.step == saved + 1
