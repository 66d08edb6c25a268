"""Creation and migration of the local store, with backups.

A new or migrated database is written to a file of its own and renamed when it is complete, so that a killed
process leaves the store as it was.
"""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

import sqlalchemy
from alembic.util import CommandError

from medmim import files
from medmim.errors import RunError, counted
from medmim.tracking.artifact_addresses import relocate
from medmim.tracking.database import (
    DATABASE,
    REPAIR,
    copy_database,
    create,
    is_older,
    opened,
    row_counts,
    schema_of,
    staged,
    upgrade,
)
from medmim.tracking.run_files import records

BACKUPS = "backups"
_KEPT_BACKUPS = 2
_LOG = logging.getLogger(__name__)


def check(home: Path) -> None:
    """Check that the store of a home folder can be read by the installed MLflow, without changing it.

    Raises:
        RunError: if there is no store, or it is older or newer than MLflow, damaged or of another program.
    """
    path = home / DATABASE
    _refuse_lost(home, path)
    if not path.exists():
        raise RunError(f"no runs in '{home}' yet: run `medmim pretrain`, or set MEDMIM_HOME to their folder")
    if is_older(path):
        raise RunError(
            f"'{path}' was written by an older MLflow (schema {schema_of(path) or 'incomplete'}): run "
            "`medmim doctor --repair`, which backs it up and migrates it; reading commands do not migrate"
        )


def prepare(home: Path) -> None:
    """Create or migrate the store of a home folder, and correct its addresses if the folder has moved.

    The caller has locked the folder.

    Raises:
        RunError: if it is newer than MLflow, damaged, locked, of another program or cannot be migrated.
    """
    path = home / DATABASE
    _refuse_lost(home, path)
    if not path.exists():
        with staged(path) as new:
            create(new)
    elif is_older(path):
        _migrate(home, path)
    relocate(home)


def _refuse_lost(home: Path, path: Path) -> None:
    """Raise if the database is missing although run folders have records, which a new one would lack."""
    if not path.exists() and (found := records(home)):
        raise RunError(
            f"'{path}' is missing, but {counted(len(found), 'run folder has', 'run folders have')} "
            "records: run `medmim doctor --repair`, which rebuilds it"
        )


def back_up(home: Path) -> Path:
    """Copy the database to the backups of the home folder; the last two are kept."""
    folder = files.private_folder(home / BACKUPS)
    known = backups(home)
    number = 1 + max((int(path.name.split("-")[0]) for path in known), default=0)  # clocks can be set back
    place = folder / f"{number:04d}-{schema_of(home / DATABASE) or 'incomplete'}.db"
    with staged(place) as new:
        copy_database(home / DATABASE, new)
    for old in known[_KEPT_BACKUPS - 1 :]:
        old.unlink(missing_ok=True)
    return place


def backups(home: Path) -> list[Path]:
    """Return the backups of a home folder, newest first."""
    return sorted((home / BACKUPS).glob("[0-9]*-*.db"), reverse=True)


def _migrate(home: Path, path: Path) -> None:
    _refuse_during_training(home, path)
    backup = back_up(home)
    unused = not any(row_counts(path).get(table) for table in ("runs", "registered_models"))
    if not unused:
        _LOG.warning("the store was written by an older MLflow: backed up to '%s', now migrating it", backup)
    try:
        with opened(path) as database, staged(path) as new:
            database.execute("BEGIN IMMEDIATE")  # no other process writes until the new file is in place
            if unused:  # such as the remains of an interrupted creation
                create(new)
            else:
                copy_database(backup, new)
                upgrade(new)
    except (sqlalchemy.exc.SQLAlchemyError, CommandError, sqlite3.Error, RunError) as error:
        raise RunError(
            f"'{path}' cannot be migrated ({type(error).__name__}: {str(error).splitlines()[0][:150]}); it "
            f"is unchanged, and '{backup}' is its backup: {REPAIR}, or install the MLflow that wrote it"
        ) from error


def _refuse_during_training(home: Path, path: Path) -> None:
    """Raise if a training is running, because it would go on writing to the file that is replaced."""
    with opened(path) as database:
        try:
            running = database.execute("SELECT run_uuid FROM runs WHERE status = 'RUNNING'").fetchall()
        except sqlite3.OperationalError:  # the table was never created
            return
    for (run_id,) in running:
        if files.is_locked(home / "checkpoints" / run_id):
            raise RunError(
                f"'{path}' must be migrated to the installed MLflow, but run {run_id} is being trained: wait "
                "until it ends, then run this again"
            )
