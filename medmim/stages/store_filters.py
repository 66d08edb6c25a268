"""Filters of runs and model versions as SQL, so that the database selects them and not a loop."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Condition = tuple[str, list[str]]  # SQL and the values of its placeholders
ACTIVE = "lifecycle_stage = 'active'"
AMONG = "IN (SELECT value FROM json_each(?))"
_IS_TRAINING = (
    "EXISTS (SELECT 1 FROM tags WHERE tags.key = 'stage' AND tags.run_uuid = runs.run_uuid "
    "AND tags.value IN ('pretrain', 'finetune'))"
)
_NEVER = -1  # SQLite's LIMIT −1: no limit


def _tag(key: str) -> str:
    """Return the SQL expression of a tag of a run; empty without the tag."""
    return (
        f"coalesce((SELECT value FROM tags WHERE tags.key = '{key}' AND tags.run_uuid = runs.run_uuid), '')"
    )


def _all_of(fixed: str, parts: Sequence[tuple[str, str | None]]) -> Condition:
    """Return the conjunction of a fixed condition and of those that have a value."""
    chosen = [(part, value) for part, value in parts if value is not None]
    return " AND ".join([fixed, *(part for part, _ in chosen)]), [value for _, value in chosen]


_SCORE = (
    "(SELECT latest_metrics.value FROM tags JOIN latest_metrics ON latest_metrics.run_uuid = tags.run_uuid "
    "AND latest_metrics.key = 'test/' || tags.value AND NOT is_nan "
    "WHERE tags.key = 'metric' AND tags.run_uuid = runs.run_uuid)"
)


@dataclass(frozen=True)
class RunFilter:
    """The runs to list; the database selects them.

    Attributes:
        task: task of a fine-tuning, or `pretrain`.
        ids: the only ids to list; None: all.
        sort: date (newest first), score (highest first), arm or dataset.
        limit: number of runs; None: all.
    """

    task: str | None = None
    arm: str | None = None
    dataset: str | None = None
    study: str | None = None
    state: str | None = None
    ids: Sequence[str] | None = None
    sort: Literal["date", "score", "arm", "dataset"] = "date"
    limit: int | None = None

    def condition(self) -> Condition:
        """Return the SQL condition and its values."""
        task = f"coalesce(nullif({_tag('task')}, ''), {_tag('stage')}) = ?"
        parts = (
            (task, self.task),
            (f"instr({_tag('arm')}, ?)", self.arm),
            (f"{_tag('dataset')} = ?", self.dataset),
            (f"{_tag('study')} = ?", self.study),
            ("status = upper(?)", self.state),
            (f"run_uuid {AMONG}", None if self.ids is None else json.dumps(list(self.ids))),
        )
        return _all_of(f"{ACTIVE} AND {_IS_TRAINING}", parts)

    def order(self) -> str:
        """Return the SQL clauses for order and limit."""
        first = {"date": "", "score": f"{_SCORE} DESC NULLS LAST, "}.get(self.sort, f"{_tag(self.sort)}, ")
        return f"ORDER BY {first}start_time DESC LIMIT {_NEVER if self.limit is None else self.limit}"


@dataclass(frozen=True)
class ModelFilter:
    """The versions of registered models to list; the database selects them."""

    model: str | None = None
    version: str | None = None
    alias: str | None = None
    run_id: str | None = None
    newest: bool = False
    limit: int | None = None

    def condition(self) -> Condition:
        """Return the SQL condition and its values."""
        alias = (
            "EXISTS (SELECT 1 FROM registered_model_aliases AS alias WHERE alias.name = model_versions.name "
            "AND alias.version = model_versions.version AND alias.alias = ?)"
        )
        parts = (
            ("name = ?", self.model),
            ("CAST(version AS TEXT) = ?", self.version),
            (alias, self.alias),
            ("run_id = ?", self.run_id),
        )
        return _all_of("current_stage != 'Deleted_Internal'", parts)

    def order(self) -> str:
        """Return the SQL clauses for order and limit."""
        started = "(SELECT start_time FROM runs WHERE run_uuid = run_id)"
        first = f"{started} DESC" if self.newest else "name"
        return f"ORDER BY {first}, version DESC LIMIT {_NEVER if self.limit is None else self.limit}"


ALL_RUNS, ALL_MODELS = RunFilter(), ModelFilter()
