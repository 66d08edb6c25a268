import sqlite3

import pytest
from store_faults import count, damage, downgrade

from medmim.errors import RunError
from medmim.tracking.database import DATABASE, copy_database, is_intact, is_older, opened, upgrade


def test_a_copy_contains_committed_rows_only(new_home, tmp_path):
    source = new_home() / DATABASE
    before = count(source, "experiments")
    writer = sqlite3.connect(source)
    writer.execute("INSERT INTO experiments (experiment_id, name) VALUES (77, 'open transaction')")
    copy_database(source, tmp_path / "copy.db")
    writer.close()
    assert count(tmp_path / "copy.db", "experiments") == before


def test_upgrading_keeps_all_rows(new_home):
    path = new_home() / DATABASE
    downgrade(path)
    assert is_older(path)
    upgrade(path)
    assert not is_older(path)


def test_a_damaged_database_is_not_intact(new_home):
    path = new_home() / DATABASE
    assert is_intact(path)
    damage(path)
    assert not is_intact(path)


def test_a_locked_database_is_an_error_with_a_remedy(new_home):
    path = new_home() / DATABASE
    with (
        pytest.raises(RunError, match="locked by another process: wait until it ends"),
        opened(path),
    ):
        raise sqlite3.OperationalError("database is locked")
