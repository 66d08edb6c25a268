import sqlite3

import pytest
from store_faults import damage, downgrade, moved

from medmim.errors import RunError
from medmim.stages.doctor.store import judge_store, repair_store
from medmim.tracking.database import DATABASE
from medmim.tracking.migration import backups
from medmim.tracking.mlflow_store import Store


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
    _, status, finding, advice = judge_store(home)
    assert status == "bad"
    assert pytest.raises(ValueError, match=found).matches(ValueError(finding))
    assert "`medmim doctor --repair`" in advice
    assert "the store was rebuilt from no backup and the records of 1 run;" in repair_store(home)
    assert judge_store(home)[1] == "ok"
    (run,) = Store(home, reading=True).runs(stage="pretrain")
    assert run.info.run_id == store.runs()[0].info.run_id


def test_an_older_store_is_migrated(store, tmp_path):
    home = moved(store, tmp_path)
    downgrade(home / DATABASE)
    assert judge_store(home)[1] == "bad"
    assert "the store is intact" in repair_store(home)
    assert len(backups(home)) == 1
    assert len(Store(home, reading=True).runs()) == 1


def test_an_empty_home_needs_no_repair(tmp_path):
    assert judge_store(tmp_path)[1] == "ok"
    assert repair_store(tmp_path) == "there is no store to repair"
    assert not list(tmp_path.iterdir())


def test_the_database_of_another_program_is_left_alone(tmp_path):
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()
    with pytest.raises(RunError, match="belongs to another program: move it away"):
        repair_store(tmp_path)
