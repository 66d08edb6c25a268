"""Stores that something happened to: written by an older MLflow, damaged, locked or of another program."""

import shutil
import sqlite3

from alembic import command
from alembic.config import Config
from mlflow.store.db.utils import _get_alembic_config

OLDER = "b7e2c1a4d9f3"  # the schema of MLflow 3.16


def downgrade(database):
    """Give a database the tables of MLflow 3.16."""
    config: Config = _get_alembic_config(f"sqlite:///{database}")
    command.downgrade(config, OLDER)


def set_schema(database, revision):
    """Write another revision into a database, and change nothing else."""
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    connection.close()


def damage(database):
    """Overwrite pages in the middle of a database."""
    with database.open("r+b") as stream:
        stream.seek(4096)
        stream.write(bytes(range(256)) * 400)


def count(database, table):
    """Return the number of rows of a table."""
    connection = sqlite3.connect(database)
    try:
        return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    finally:
        connection.close()


def moved(store, folder):
    """Copy a home folder: MLflow keeps connections to the database of the first."""
    return shutil.copytree(store.home, folder / "home")
