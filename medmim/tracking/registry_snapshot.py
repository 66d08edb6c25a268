"""A copy of the model registry in the home folder (`registry.json`), from which it can be rebuilt."""

from __future__ import annotations

import json
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from medmim import files

SNAPSHOT = "registry.json"


def write_snapshot(client: MlflowClient, home: Path) -> None:
    """Write names, tags, aliases and versions of all registered models."""
    versions = client.search_model_versions()
    models = [
        {
            "name": model.name,
            "tags": dict(model.tags),
            "aliases": {alias: int(number) for alias, number in model.aliases.items()},
            "versions": [
                {"version": int(one.version), "run_id": one.run_id, "tags": dict(one.tags)}
                for one in versions
                if one.name == model.name
            ],
        }
        for model in client.search_registered_models(max_results=1000)
    ]
    files.write_json(home / SNAPSHOT, {"models": models})


def restore_snapshot(client: MlflowClient, home: Path) -> int:
    """Register the versions of the snapshot that are missing, under their numbers; return how many."""
    path = home / SNAPSHOT
    models = json.loads(path.read_text(encoding="utf-8"))["models"] if path.is_file() else []
    restored = 0
    for model in models:
        create_model(client, model["name"])
        for key, value in model["tags"].items():
            client.set_registered_model_tag(model["name"], key, value)
        known = {int(one.version) for one in client.search_model_versions(f"name = '{model['name']}'")}
        for version in sorted(model["versions"], key=lambda one: int(one["version"])):
            if version["version"] not in known:
                _restore_version(client, model["name"], version)
                restored += 1
        for alias, number in model["aliases"].items():
            client.set_registered_model_alias(model["name"], alias, str(number))
    return restored


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
