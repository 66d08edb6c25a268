"""Addresses of artifacts in the local store, which follow the home folder when it moves."""

from __future__ import annotations

from pathlib import Path

from mlflow import MlflowClient

from medmim.tracking.database import DATABASE, opened
from medmim.tracking.mlflow_recorder import restore_experiment
from medmim.tracking.run_files import ARTIFACTS, inside
from medmim.tracking.ui_views import EXPERIMENT_TAGS

_ADDRESSES = (
    *(("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location")),
    *(("model_versions", "source"), ("model_versions", "storage_location")),
)


def experiment_of(client: MlflowClient, name: str, home: Path | None = None) -> str:
    """Return the id of an experiment in a home folder or on a server; create it, or restore it if deleted."""
    found = client.get_experiment_by_name(name)
    if found is None:
        place = (home / "artifacts" / name).as_uri() if home else None
        return str(client.create_experiment(name, artifact_location=place, tags=EXPERIMENT_TAGS))
    restore_experiment(client, found)
    return str(found.experiment_id)


def relocate(home: Path) -> None:
    """Correct the addresses of artifacts after the home folder was renamed, copied or mounted elsewhere.

    Experiments that belong to neither medmim nor this folder keep their addresses.
    """
    root = (home / "artifacts").as_uri() + "/"
    key, value = next(iter(EXPERIMENT_TAGS.items()))
    query = (
        "SELECT artifact_location, EXISTS (SELECT 1 FROM experiment_tags AS tag WHERE tag.experiment_id = "
        "experiments.experiment_id AND tag.key = ? AND tag.value = ?) FROM experiments "
        "WHERE artifact_location LIKE 'file:%/artifacts/%' AND substr(artifact_location, 1, ?) != ?"
    )
    with opened(home / DATABASE) as database:
        moved = {
            location.rpartition(ARTIFACTS)[0] + ARTIFACTS
            for location, ours in database.execute(query, (key, value, len(root), root))
            if ours or inside(home, location).is_relative_to(home)
        }
        with database:  # one transaction
            for old in moved:
                for table, column in _ADDRESSES:
                    database.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                        f"WHERE substr({column}, 1, ?) = ?",
                        (root, len(old) + 1, len(old), old),
                    )
