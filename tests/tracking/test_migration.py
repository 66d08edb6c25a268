import shutil
import sqlite3

import pytest
from store_faults import OLDER, count, damage, downgrade, set_schema

from medmim import files
from medmim.errors import RunError
from medmim.tracking.database import DATABASE, is_intact, schema_of
from medmim.tracking.migration import back_up, backups, check, prepare
from medmim.tracking.mlflow_store import Store
from medmim.tracking.rebuild import rebuild


@pytest.fixture(scope="module")
def older_store(new_home, tmp_path_factory):
    """The database of MLflow 3.16 with one run that is still marked as running."""
    home = new_home()
    Store(home).begin(experiment="test", name="a run", tags={"stage": "pretrain"})
    path = tmp_path_factory.mktemp("older") / DATABASE
    shutil.copyfile(home / DATABASE, path)
    downgrade(path)
    return path


@pytest.fixture
def older(older_store, tmp_path):
    shutil.copyfile(older_store, tmp_path / DATABASE)
    return tmp_path


def test_an_older_store_is_backed_up_and_migrated(older, caplog):
    prepare(older)
    (backup,) = backups(older)
    assert schema_of(backup) == OLDER
    assert schema_of(older / DATABASE) != OLDER
    assert count(older / DATABASE, "runs") == count(backup, "runs") == 1
    assert f"backed up to '{backup}', now migrating it" in caplog.text
    check(older)
    prepare(older)
    assert len(backups(older)) == 1


def test_reading_does_not_migrate(older):
    before = (older / DATABASE).read_bytes()
    with pytest.raises(RunError, match=r"older MLflow .*`medmim doctor --repair`, which backs it up"):
        Store(older, reading=True)
    assert (older / DATABASE).read_bytes() == before


def test_reading_does_not_create_a_store(tmp_path):
    with pytest.raises(RunError, match="no runs in"):
        Store(tmp_path / "home", reading=True)
    assert not (tmp_path / "home").exists()


def test_remains_of_killed_commands_are_replaced(older):
    for name in (f"{DATABASE}.new", f"{DATABASE}.new-journal"):
        (older / name).write_bytes(b"half a database")
    prepare(older)
    assert is_intact(older / DATABASE)
    assert not list(older.glob(f"{DATABASE}.*"))


def test_a_store_whose_creation_was_interrupted_is_created_again(tmp_path):
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.execute("CREATE TABLE runs (run_uuid TEXT, status TEXT)")
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
    connection.close()
    prepare(tmp_path)
    check(tmp_path)
    assert len(backups(tmp_path)) == 1


def test_a_migration_that_fails_leaves_the_store_unchanged(older):
    with sqlite3.connect(older / DATABASE) as connection:
        connection.execute("DROP TABLE latest_metrics")
    connection.close()
    set_schema(older / DATABASE, "451aebb31d03")  # the first migration: its tables exist already
    before = (older / DATABASE).read_bytes()
    with pytest.raises(RunError, match=r"cannot be migrated .*it is unchanged, and '.*' is its backup"):
        prepare(older)
    assert (older / DATABASE).read_bytes() == before


def test_no_store_is_migrated_during_a_training(older):
    with sqlite3.connect(older / DATABASE) as connection:
        (run_id,) = connection.execute("SELECT run_uuid FROM runs").fetchone()
    connection.close()
    with files.lock(older / "checkpoints" / run_id), pytest.raises(RunError, match="is being trained: wait"):
        prepare(older)


@pytest.mark.parametrize(
    ("fault", "remedy"),
    [
        (lambda path: set_schema(path, "ffffffffffff"), "a newer MLflow .*`pip install -U mlflow`"),
        (lambda path: path.write_bytes(b"no database" * 1000), "not an SQLite database: run `medmim doctor"),
        (damage, "is damaged .*: run `medmim doctor --repair`"),
    ],
    ids=["newer", "foreign file", "damaged"],
)
def test_unusable_stores_are_refused_with_a_remedy(new_home, fault, remedy):
    home = new_home()
    fault(home / DATABASE)
    for use in (check, prepare):
        with pytest.raises(RunError, match=remedy) as found:
            use(home)
        assert "\n" not in str(found.value)


def test_a_database_of_another_program_is_refused(tmp_path):
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()
    with pytest.raises(RunError, match="belongs to another program: move it away"):
        prepare(tmp_path)


def test_a_store_whose_database_was_deleted_is_not_replaced_by_an_empty_one(new_home):
    store = Store(new_home())
    run_id = store.begin(experiment="e", name="n", tags={}).run_id
    (store.home / DATABASE).unlink()
    for reading in (True, False):
        with pytest.raises(RunError, match=r"is missing, but 1 run folder has records: run `medmim doctor"):
            Store(store.home, reading=reading)
    rebuild(store.home)
    assert [run.info.run_id for run in Store(store.home).runs()] == [run_id]


def test_the_last_two_backups_are_kept(new_home):
    home = new_home()
    made = [back_up(home) for _ in range(3)]
    assert backups(home) == [made[2], made[1]]
