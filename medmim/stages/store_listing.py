"""Runs and registered models of a home folder, read from its database without importing MLflow or PyTorch."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from medmim.stages.store_filters import ACTIVE, ALL_MODELS, ALL_RUNS, AMONG, ModelFilter, RunFilter
from medmim.text_formats import parse_json
from medmim.tracking.run_files import inside, records

_STATUS, _STATUSES = "status", ("candidate", "control", "failed sanity")  # tag of a version


@dataclass(frozen=True)
class ListedRun:
    """A run as `medmim runs` lists it.

    Attributes:
        tags: tags of the run, such as stage, task, arm, dataset and study.
        interval: ends of the 95 % confidence interval of the test score; None without one.
    """

    run_id: str
    state: str
    started: datetime
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    interval: tuple[float, float] | None = None

    @property
    def task(self) -> str:
        """Task of a fine-tuning run, else the stage."""
        return self.tags.get("task") or self.tags.get("stage", "")

    @property
    def score(self) -> float | None:
        """Test score of a fine-tuning run."""
        return self.metrics.get(f"test/{self.tags.get('metric', '')}")

    def as_json(self) -> dict[str, Any]:
        """Return the entry of `--json`."""
        keys = ("stage", "arm", "dataset", "study", "metric", "seed")
        return {
            "run": self.run_id,
            "task": self.task,
            "status": self.state,
            "started": self.started.isoformat(),
            "score": self.score,
            "interval": list(self.interval) if self.interval else None,
            "minutes": self.metrics.get("last/minutes"),
            **{key: self.tags.get(key, "") for key in keys},
        }


@dataclass(frozen=True)
class ListedModel:
    """A version of a registered model with its run.

    Attributes:
        run: the run that made it; None if it was deleted.
    """

    model: str
    version: int
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    run_id: str
    run: ListedRun | None

    @property
    def status(self) -> str:
        """Champion, candidate, control or failed sanity; versions of 0.1.0 are judged by their arm."""
        if "champion" in self.aliases:
            return "champion"
        from_scratch = self.run is not None and self.run.tags.get("arm") == "scratch"
        noted = self.tags.get(_STATUS)
        return noted if noted in _STATUSES else "control" if from_scratch else "candidate"


def list_runs(home: Path, wanted: RunFilter = ALL_RUNS) -> list[ListedRun]:
    """Return runs of pretraining and fine-tuning, without those that describe studies."""
    condition, values = wanted.condition()
    query = f"SELECT run_uuid, status, start_time, artifact_uri FROM runs WHERE {condition} {wanted.order()}"
    with _database(home) as database:
        if database is None:
            return []
        rows = database.execute(query, values).fetchall()
        ids = json.dumps([run_id for run_id, *_ in rows])
        tags = _grouped(database, f"SELECT run_uuid, key, value FROM tags WHERE run_uuid {AMONG}", ids)
        metrics = _grouped(
            database,
            "SELECT run_uuid, key, value FROM latest_metrics WHERE NOT is_nan AND run_uuid " + AMONG,
            ids,
        )
    return [
        ListedRun(
            run_id,
            state,
            datetime.fromtimestamp((started or 0) / 1000, UTC),
            tags[run_id],
            metrics[run_id],
            _interval(inside(home, address or "") / "scores.jsonl", tags[run_id]),
        )
        for run_id, state, started, address in rows
    ]


def count_runs(home: Path, wanted: RunFilter = ALL_RUNS) -> int:
    """Return the number of runs that a filter selects, whatever its limit."""
    condition, values = wanted.condition()
    with _database(home) as database:
        query = f"SELECT count(*) FROM runs WHERE {condition}"
        return int(database.execute(query, values).fetchone()[0]) if database else 0


def run_ids(home: Path) -> set[str]:
    """Return the ids of all runs that are not deleted."""
    with _database(home) as database:
        rows = database.execute(f"SELECT run_uuid FROM runs WHERE {ACTIVE}") if database else ()
        return {str(run_id) for (run_id,) in rows}


def list_models(home: Path, wanted: ModelFilter = ALL_MODELS) -> list[ListedModel]:
    """Return versions of registered models, newest first within each."""
    condition, values = wanted.condition()
    with _database(home) as database:
        if database is None:
            return []
        rows = database.execute(
            f"SELECT name, version, run_id FROM model_versions WHERE {condition} {wanted.order()}", values
        ).fetchall()
        names = json.dumps(sorted({name for name, *_ in rows}))
        tags = _grouped(
            database,
            f"SELECT name || ':' || version, key, value FROM model_version_tags WHERE name {AMONG}",
            names,
        )
        aliases = defaultdict(list)
        query = f"SELECT name, version, alias FROM registered_model_aliases WHERE name {AMONG}"
        for name, version, alias in database.execute(query, (names,)):
            aliases[name, version].append(alias)
    runs = {one.run_id: one for one in list_runs(home, RunFilter(ids=tuple(run for *_, run in rows)))}
    return [
        ListedModel(
            name,
            version,
            tuple(sorted(aliases[name, version])),
            tags[f"{name}:{version}"],
            run,
            runs.get(run),
        )
        for name, version, run in rows
    ]


def count_models(home: Path) -> int:
    """Return the number of registered versions."""
    with _database(home) as database:
        query = f"SELECT count(*) FROM model_versions WHERE {ALL_MODELS.condition()[0]}"
        return int(database.execute(query).fetchone()[0]) if database else 0


def model_names(home: Path) -> list[str]:
    """Return the names of registered models in order."""
    with _database(home) as database:
        query = f"SELECT DISTINCT name FROM model_versions WHERE {ALL_MODELS.condition()[0]} ORDER BY name"
        return [str(name) for (name,) in database.execute(query)] if database else []


def metric_histories(
    home: Path, wanted: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """Return step and value of each finite point of metrics, by step.

    Args:
        wanted: run and key of each metric.
    """
    query = "SELECT step, value FROM metrics WHERE run_uuid = ? AND key = ? AND NOT is_nan ORDER BY step"
    with _database(home) as database:
        return {one: database.execute(query, one).fetchall() if database else [] for one in wanted}


@contextmanager
def _database(home: Path) -> Iterator[sqlite3.Connection | None]:
    """Open the database read-only; yield None where there is none.

    MLflow is imported only for a schema that its installed version does not have, and to explain errors.
    """
    path = home / "mlflow.db"
    if not path.is_file():
        if records(home):
            from medmim.tracking.migration import check

            check(home)  # raises, as the runs with these records are missing
        yield None
        return
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=10)) as database:
            if not _has_known_schema(database):
                from medmim.tracking.migration import check

                check(home)  # raises for a newer or incomplete schema, and for another program
            yield database
    except sqlite3.Error as error:
        from medmim.tracking.database import explained
        from medmim.tracking.migration import check

        check(home)  # raises for an older schema, which lacks tables and columns
        raise explained(path, error) from error


def _has_known_schema(database: sqlite3.Connection) -> bool:
    """Return whether the installed MLflow has the schema's revision, by the name of its migration script."""
    tables = database.execute("SELECT name FROM sqlite_master WHERE name = 'alembic_version'").fetchall()
    revisions = database.execute("SELECT version_num FROM alembic_version").fetchall() if tables else []
    mlflow = find_spec("mlflow")
    folders = mlflow.submodule_search_locations if mlflow else None
    pattern = f"store/db_migrations/versions/{revisions[0][0] if revisions else '?'}_*.py"
    return bool(revisions) and any(any(Path(folder).glob(pattern)) for folder in folders or ())


def _grouped(database: sqlite3.Connection, query: str, among: str) -> defaultdict[str, dict[str, Any]]:
    found: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for owner, key, value in database.execute(query, (among,)):
        found[owner][key] = value
    return found


def _interval(table: Path, tags: Mapping[str, str]) -> tuple[float, float] | None:
    """Return the confidence interval of a run's score from its table of scores."""
    lines = table.read_text(encoding="utf-8").splitlines() if table.is_file() else []
    for row in map(parse_json, lines):
        if row["metric"] == tags.get("metric") and row["low"] is not None:
            return float(row["low"]), float(row["high"])
    return None
