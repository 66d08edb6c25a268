"""A copy of the model registry in the home folder (`registry.json`), from which it can be rebuilt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from medmim import files
from medmim.text_formats import parse_json
from medmim.tracking.database import DATABASE, opened

SNAPSHOT = "registry.json"


def write_snapshot(home: Path) -> None:
    """Write names, tags, aliases and versions of all registered models."""
    models: dict[str, dict[str, Any]] = {}
    versions: dict[tuple[str, int], dict[str, Any]] = {}
    with opened(home / DATABASE) as database:
        for (name,) in database.execute("SELECT name FROM registered_models"):
            models[name] = {"name": name, "tags": {}, "aliases": {}, "versions": []}
        for name, key, value in database.execute("SELECT name, key, value FROM registered_model_tags"):
            models[name]["tags"][key] = value
        for name, key, value in database.execute("SELECT name, alias, version FROM registered_model_aliases"):
            models[name]["aliases"][key] = value
        for name, number, run_id in database.execute(
            "SELECT name, version, run_id FROM model_versions WHERE current_stage != 'Deleted_Internal'"
        ):
            versions[name, number] = {"version": number, "run_id": run_id, "tags": {}}
            models[name]["versions"].append(versions[name, number])
        for name, number, key, value in database.execute(
            "SELECT name, version, key, value FROM model_version_tags"
        ):
            if (name, number) in versions:
                versions[name, number]["tags"][key] = value
    files.write_json(home / SNAPSHOT, {"models": list(models.values())})


def restore_snapshot(client: MlflowClient, home: Path) -> int:
    """Register the versions of the snapshot that are missing, under their numbers; return how many."""
    path = home / SNAPSHOT
    models = parse_json(path.read_text(encoding="utf-8"))["models"] if path.is_file() else []
    restored = 0
    for model in models:
        create_model(client, model["name"])
        for key, value in model["tags"].items():
            client.set_registered_model_tag(model["name"], key, value)
        known = {int(one.version) for one in client.search_model_versions(equals("name", model["name"]))}
        for version in sorted(model["versions"], key=lambda one: int(one["version"])):
            if version["version"] not in known:
                _restore_version(client, model["name"], version)
                restored += 1
        for alias, number in model["aliases"].items():
            client.set_registered_model_alias(model["name"], alias, str(number))
    return restored


def equals(field: str, value: str) -> str:
    """Return an MLflow filter; MLflow cannot escape quotes, so a text with both kinds may match more."""
    if "'" in value and '"' in value:
        return f"{field} LIKE '{value.replace(chr(39), '_')}'"
    quote_mark = '"' if "'" in value else "'"
    return f"{field} = {quote_mark}{value}{quote_mark}"


def create_model(client: MlflowClient, name: str) -> None:
    """Create a registered model unless it exists."""
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _restore_version(client: MlflowClient, name: str, version: dict[str, object]) -> None:
    """Register a version; numbers that are no longer used are passed by versions that are deleted again."""
    run = client.get_run(str(version["run_id"]))
    while True:
        source = f"{run.info.artifact_uri}/model"
        made = client.create_model_version(name, source, run.info.run_id, tags=version["tags"])
        if int(made.version) >= int(str(version["version"])):
            return
        client.delete_model_version(name, made.version)
