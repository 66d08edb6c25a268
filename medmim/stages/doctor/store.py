"""Check and repair the local store: schema, integrity, backups and the records of its runs."""

from __future__ import annotations

from pathlib import Path

from medmim.errors import RunError, counted
from medmim.stages.doctor.permissions import Verdict
from medmim.tracking.database import DATABASE, is_intact
from medmim.tracking.migration import backups, check
from medmim.tracking.mlflow_store import Store
from medmim.tracking.rebuild import rebuild, write_missing_records
from medmim.tracking.run_files import records

_ADVICE = "run `medmim doctor --repair`"


def judge_store(home: Path) -> Verdict:
    """Return name, status, finding and advice on the store of a home folder."""
    path, count = home / DATABASE, len(records(home))
    if not path.exists():
        if not count:
            return "store", "ok", "none; the first training creates it", ""
        return (
            "store",
            "bad",
            f"{DATABASE} is missing, {counted(count, 'run folder has', 'run folders have')} records",
            _ADVICE,
        )
    try:
        check(home)
        intact = is_intact(path)
    except RunError as error:
        found, _, advice = str(error).partition(": ")
        return "store", "bad", found, advice
    if not intact:
        return "store", "bad", f"{DATABASE} fails SQLite's integrity check", _ADVICE
    return (
        "store",
        "ok",
        f"intact, {counted(len(backups(home)), 'backup')}, {counted(count, 'run record')}",
        "",
    )


def repair_store(home: Path) -> str:
    """Migrate, restore or rebuild the store where needed, and record its runs; return what was done.

    Raises:
        RunError: if the store is locked, newer than the installed MLflow, or belongs to another program.
    """
    path = home / DATABASE
    if not path.exists() and not records(home):
        return "there is no store to repair"
    if path.exists() and is_intact(path):
        count = write_missing_records(Store(home))
        return f"the store is intact; records of {counted(count, 'run')} were added to their folders"
    done = rebuild(home)
    count = write_missing_records(Store(home))
    source = f"backup '{done.backup}'" if done.backup else "no backup"
    kept = f"; the damaged file is kept as '{done.kept}'" if done.kept else ""
    return (
        f"the store was rebuilt from {source} and the records of {counted(done.runs, 'run')}; "
        f"{counted(done.versions, 'model version was', 'model versions were')} registered again{kept}"
    )
