"""Tests of `medmim/stages/doctor/repair.py`."""

import os
import sqlite3
import stat

import pytest
from store_faults import damage, downgrade, moved

from medmim.errors import RunError
from medmim.files import SHARED
from medmim.stages.doctor.repair import check_permissions, check_store, repair_store, restrict_permissions
from medmim.tracking.database import DATABASE
from medmim.tracking.migration import backups
from medmim.tracking.mlflow_store import Store


@pytest.fixture
def open_home(tmp_path):
    home = tmp_path / "home"
    (home / "checkpoints").mkdir(parents=True)
    (home / "checkpoints" / "weights.safetensors").write_bytes(b"x")
    (home / "link").symlink_to(tmp_path)
    for path, mode in [(home, 0o755), (home / "checkpoints", 0o755)]:
        path.chmod(mode)
    (home / "checkpoints" / "weights.safetensors").chmod(0o640)
    return home


def modes(home):
    paths = (home, home / "checkpoints", home / "checkpoints" / "weights.safetensors")
    return [stat.S_IMODE(path.stat().st_mode) for path in paths]


def test_files_that_others_can_read_are_counted_and_repaired(open_home, tmp_path):
    before = stat.S_IMODE(tmp_path.stat().st_mode)
    name, status, found, advice = check_permissions([open_home, tmp_path / "missing"])
    assert (name, status) == ("permissions", "bad")
    assert found == "3 files and folders can be read by others"
    assert "doctor --repair" in advice
    assert restrict_permissions([open_home]) == 3
    assert modes(open_home) == [0o700, 0o700, 0o600]
    assert check_permissions([open_home])[1] == "ok"
    assert stat.S_IMODE(tmp_path.stat().st_mode) == before  # the target of the link


def test_a_private_folder_protects_its_content(open_home):
    open_home.chmod(0o700)
    assert check_permissions([open_home])[1] == "ok"


def test_a_shared_home_is_open_to_the_group_only(open_home, monkeypatch):
    monkeypatch.setenv(SHARED, "1")
    assert restrict_permissions([open_home]) == 2
    assert modes(open_home) == [0o750, 0o750, 0o640]


def test_files_of_other_owners_are_skipped(open_home, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: -1)
    assert restrict_permissions([open_home]) == 0


@pytest.fixture(scope="module")
def store(new_home):
    """A store with one run."""
    store = Store(new_home())
    store.begin(experiment="e", name="n", tags={"stage": "pretrain"})
    return store


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (lambda path: path.unlink(), "missing, 1 run folder has records"),
        (damage, "is damaged|fails SQLite's integrity check"),
        (lambda path: path.write_bytes(b"text" * 5000), "is not an SQLite database"),
    ],
    ids=["missing", "damaged", "no database"],
)
def test_unusable_stores_are_reported_and_repaired(store, tmp_path, fault, found):
    home = moved(store, tmp_path)
    fault(home / DATABASE)
    _, status, finding, advice = check_store(home)
    assert status == "bad"
    assert pytest.raises(ValueError, match=found).matches(ValueError(finding))
    assert "`medmim doctor --repair`" in advice
    assert "the store was rebuilt from no backup and the records of 1 run;" in repair_store(home)
    assert check_store(home)[1] == "ok"
    (run,) = Store(home, reading=True).runs(stage="pretrain")
    assert run.info.run_id == store.runs()[0].info.run_id


def test_an_older_store_is_migrated(store, tmp_path):
    home = moved(store, tmp_path)
    downgrade(home / DATABASE)
    assert check_store(home)[1] == "bad"
    assert "the store is intact" in repair_store(home)
    assert len(backups(home)) == 1
    assert len(Store(home, reading=True).runs()) == 1


def test_an_empty_home_needs_no_repair(tmp_path):
    assert check_store(tmp_path)[1] == "ok"
    assert repair_store(tmp_path) == "there is no store to repair"
    assert not list(tmp_path.iterdir())


def test_the_database_of_another_program_is_left_alone(tmp_path):
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()
    with pytest.raises(RunError, match="belongs to another program: move it away"):
        repair_store(tmp_path)
