"""Runs are deleted unless a registered model needs them; files that nothing needs are found and removed."""

import pytest
from click.testing import CliRunner

from medmim.cli import main
from medmim.errors import RunError
from medmim.stages.clean import delete_runs, leftovers, remove
from medmim.stages.store_listing import list_runs
from medmim.tracking.mlflow_store import Store


def test_deleted_runs_are_gone_and_their_files_removed(stored):
    home, _, tuned, control = stored
    (home / "checkpoints" / control).mkdir(parents=True, exist_ok=True)
    with pytest.raises(
        RunError,
        match="produced the registered model scans-segment:1 and cannot be deleted here; `medmim ui` can",
    ):
        delete_runs([control, tuned], home=home)
    assert len(list_runs(home)) == 3
    with pytest.raises(RunError, match=r"--delete : expected .*, got the beginning of 3 run ids: "):
        delete_runs([""], home=home)
    [deleted] = delete_runs([control[:12]], home=home)
    assert deleted.run_id == control
    (home / "artifacts" / "e" / control / "artifacts").mkdir(parents=True, exist_ok=True)
    (home / "artifacts" / "e" / control / "artifacts" / "x").write_bytes(bytes(1000))
    [left] = leftovers(home)
    assert (left.path.name, left.size) == (control, 1000)
    assert "nothing" not in CliRunner().invoke(main, ["clean"]).stdout
    assert left.path.exists()
    assert remove([left]) == 1000
    assert CliRunner().invoke(main, ["clean"]).stdout == "nothing to remove\nnext  medmim runs\n"


def test_the_weights_of_a_registered_model_stay_when_its_run_is_deleted(stored):
    home, _, tuned, _ = stored
    weights = home / "checkpoints" / tuned / "weights.safetensors"
    weights.parent.mkdir(parents=True, exist_ok=True)
    weights.write_bytes(bytes(10))
    client = Store(home).client
    client.delete_run(tuned)
    assert leftovers(home) == []
    client.delete_model_version("scans-segment", "1")
    assert weights.parent in {one.path for one in leftovers(home)}


def test_the_folder_of_registered_models_is_no_leftover(tmp_path):
    model = tmp_path / "artifacts" / "e" / "models" / "m-1" / "artifacts"
    model.mkdir(parents=True)
    (model / "weights").write_bytes(bytes(10))
    assert leftovers(tmp_path) == []


def test_timings_of_stopped_studies_are_leftovers(tmp_path):
    (tmp_path / "studies" / "tmpabc").mkdir(parents=True)
    (tmp_path / "studies" / "tmpabc" / "weights").write_bytes(bytes(10))
    [left] = leftovers(tmp_path)
    assert left.reason == "timing of a study that was stopped"
    assert remove([left]) == 10
    assert leftovers(tmp_path) == []
