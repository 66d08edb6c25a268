"""The SQLite file of the local store: its schema and integrity, and creating, copying and upgrading it."""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import mlflow
import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from mlflow.store.tracking.dbmodels.initial_models import Base

from medmim import files
from medmim.errors import RunError

DATABASE = "mlflow.db"
_WAIT_S = 20.0
_COUNTED = ("experiments", "runs", "params", "tags", "metrics", "registered_models", "model_versions")
REPAIR = "run `medmim doctor --repair`, which restores a backup and the records of the run folders"
_TROUBLES = {  # parts of SQLite's messages
    "locked": "is locked by another process: wait until it ends, then run this again",
    "readonly": "is read-only: make it writable, or set MEDMIM_HOME to another folder",
    "disk is full": "cannot be written, because the disk is full: free space, then run this again",
    "unable to open": "cannot be opened: check the permissions of MEDMIM_HOME",
}


class DamagedStoreError(RunError):
    """The database of the store is damaged, or the file is no database."""


def uri_of(database: Path) -> str:
    """Return the URI of a database for MLflow and SQLAlchemy."""
    return f"sqlite:///{quote(str(database))}"  # the path is part of a URL


def schema_of(path: Path) -> str:
    """Return the revision of a database's schema; empty if its tables were never completed."""
    with opened(path) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "alembic_version" not in tables:
            if tables and not tables & set(Base.metadata.tables):
                raise RunError(f"'{path}' belongs to another program: move it away, or set MEDMIM_HOME")
            return ""
        row = database.execute("SELECT version_num FROM alembic_version").fetchone()
        return str(row[0]) if row else ""


def is_intact(path: Path) -> bool:
    """Return whether a database passes SQLite's integrity check."""
    try:
        schema_of(path)
        with opened(path) as database:
            return bool(database.execute("PRAGMA integrity_check").fetchone()[0] == "ok")
    except DamagedStoreError:
        return False


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open an existing database, and raise the errors of SQLite as RunError with the remedy."""
    try:
        address = f"file:{quote(str(path.absolute()))}?mode=rw"  # read-only where the file is
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=_WAIT_S)) as database:
            yield database
    except sqlite3.Error as error:
        raise explained(path, error) from error


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Yield a path for a new database, which replaces the one at `path` when the block ends."""
    new = path.with_name(f"{path.name}.new")
    leftovers = (new, new.with_name(f"{new.name}-journal"))
    for one in leftovers:  # of a killed process
        one.unlink(missing_ok=True)
    try:
        yield new
        with new.open("rb") as stream:
            os.fsync(stream.fileno())
        files.move(new, path)
    finally:
        for one in leftovers:
            one.unlink(missing_ok=True)


def create(path: Path) -> None:
    """Create a database with the tables of the installed MLflow."""
    with contextlib.closing(sqlite3.connect(path)) as raw:
        raw.execute("PRAGMA synchronous = OFF")  # the caller flushes the file to the disk
        raw.executescript(_creation_script())


@functools.cache
def _creation_script() -> str:
    """Return the SQL of an empty database, made once per process, because the migrations take seconds."""
    with contextlib.closing(sqlite3.connect(":memory:")) as raw:
        engine = sqlalchemy.create_engine("sqlite://", creator=lambda: raw, poolclass=sqlalchemy.StaticPool)
        with engine.begin() as connection:
            Base.metadata.create_all(connection)
            _migrate(connection, _config())
        return "\n".join(raw.iterdump())  # `serialize` needs SQLite 3.36, which Enterprise Linux 8 and 9 lack


def copy_database(source: Path, target: Path) -> None:
    """Copy a database in a consistent state, even if another process is using it."""
    with opened(source) as database, contextlib.closing(sqlite3.connect(target)) as copy:
        database.backup(copy)


def upgrade(path: Path) -> None:
    """Upgrade the tables of a database to the installed MLflow; its rows are counted before and after."""
    before = row_counts(path)
    _alter(path)
    if not is_intact(path) or before != row_counts(path):
        raise RunError("rows were lost")


def is_older(path: Path) -> bool:
    """Return whether a database needs a migration; refuse one that is newer than MLflow."""
    schema, known = schema_of(path), _schemas()
    if schema == known[0]:
        return False
    if schema and schema not in known:
        raise RunError(
            f"'{path}' was written by a newer MLflow (schema {schema}, installed {mlflow.__version__}): "
            "`pip install -U mlflow`, or set MEDMIM_HOME to another folder"
        )
    return True


@functools.cache
def _schemas() -> tuple[str, ...]:
    """Return the revisions that the installed MLflow knows, newest first: it has a script for each."""
    return tuple(one.revision for one in ScriptDirectory.from_config(_config()).walk_revisions())


def row_counts(path: Path) -> dict[str, int]:
    """Return the number of rows of the main tables."""
    with opened(path) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        return {
            table: database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in _COUNTED
            if table in tables
        }


def _config(path: Path | None = None) -> Config:
    config = Config()
    folder = Path(mlflow.__file__).parent / "store" / "db_migrations"
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("sqlalchemy.url", uri_of(path).replace("%", "%%") if path else "")
    return config


def _alter(path: Path) -> None:
    """Run MLflow's migrations on a file that nobody else uses; the caller flushes it to the disk."""
    engine = sqlalchemy.create_engine(uri_of(path), poolclass=sqlalchemy.NullPool)
    sqlalchemy.event.listen(engine, "connect", lambda raw, _: raw.execute("PRAGMA synchronous = OFF"))
    with engine.begin() as connection:
        _migrate(connection, _config(path))
    engine.dispose()


def _migrate(connection: sqlalchemy.Connection, config: Config) -> None:
    config.attributes["connection"] = connection
    command.upgrade(config, "heads")


def explained(path: Path, error: sqlite3.Error) -> RunError:
    """Return an error of SQLite as RunError with the remedy."""
    text = str(error).lower()
    known = next((advice for part, advice in _TROUBLES.items() if part in text), None)
    if known:
        return RunError(f"'{path}' {known}")
    why = "is not an SQLite database" if "not a database" in text else f"is damaged ({error})"
    return DamagedStoreError(f"'{path}' {why}: {REPAIR}")
