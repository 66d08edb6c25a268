"""Stores that something happened to: tidied by a user, written by an older MLflow, damaged or locked."""

import shutil
import sqlite3

from alembic import command
from alembic.config import Config
from mlflow.store.db.utils import _get_alembic_config

from medmim.tracking.comparison.runs import CASES

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


def run_of(store, **tags):
    """Return the id of the newest run with these tags."""
    return store.runs(**tags)[0].info.run_id


def remove_for_good(store, run_id):
    """Do what `mlflow gc` does."""
    shutil.rmtree(store.artifact(store.run(run_id)), ignore_errors=True)
    store.client.delete_run(run_id)
    store.client._tracking_client.store._hard_delete_run(run_id)


def cases_of(store):
    """Return the table of cases of the newest fine-tuning."""
    return store.artifact(store.run(run_of(store, role="cell")), CASES)


def experiment_of(store, name):
    """Return the id of an experiment, which must exist."""
    return store.client.get_experiment_by_name(name).experiment_id


def deleted_and_restored(store):
    """Delete a run and restore it, as a user does in the UI."""
    run_id = run_of(store, stage="finetune")
    store.client.delete_run(run_id)
    store.client.restore_run(run_id)


def server_acts(study, model):
    """Return acts on a server to which a store with a study and a model was uploaded."""
    return {
        "copy deleted": lambda server: server.client.delete_run(run_of(server, stage="finetune")),
        "copy removed by gc": lambda server: remove_for_good(server, run_of(server, stage="finetune")),
        "artifacts deleted": lambda server: shutil.rmtree(
            server.artifact(server.run(run_of(server, stage="finetune")))
        ),
        "experiment deleted": lambda server: server.client.delete_experiment(experiment_of(server, study)),
        "experiment renamed": lambda server: server.client.rename_experiment(
            experiment_of(server, study), "renamed on the server"
        ),
        "model version deleted": lambda server: server.client.delete_model_version(model, "1"),
        "model deleted": lambda server: server.client.delete_registered_model(model),
    }


def tidying(study, model):
    """Return acts of users and of `mlflow gc` on a store with a study and two versions of a model."""
    return {
        "nothing": lambda store: None,
        "pretraining deleted": lambda store: store.client.delete_run(run_of(store, stage="pretrain")),
        "pretraining removed by gc": lambda store: remove_for_good(store, run_of(store, stage="pretrain")),
        "fine-tuning deleted": lambda store: store.client.delete_run(run_of(store, stage="finetune")),
        "fine-tuning deleted and restored": deleted_and_restored,
        "fine-tuning removed by gc": lambda store: remove_for_good(store, run_of(store, arm="scratch")),
        "champion removed by gc": lambda store: remove_for_good(
            store, store.client.get_model_version(model, "1").run_id
        ),
        "study run removed by gc": lambda store: remove_for_good(store, run_of(store, role="study")),
        "experiment deleted": lambda store: store.client.delete_experiment(store.experiment(study)),
        "experiment renamed": lambda store: store.client.rename_experiment(store.experiment(study), "old"),
        "model version deleted": lambda store: store.client.delete_model_version(model, "1"),
        "model deleted": lambda store: store.client.delete_registered_model(model),
        "model renamed": lambda store: store.client.rename_registered_model(model, "other"),
        "champion alias removed": lambda store: store.client.delete_registered_model_alias(model, "champion"),
        "artifact deleted": lambda store: cases_of(store).unlink(),
        "artifact damaged": lambda store: cases_of(store).write_text('{"case'),
        "artifacts deleted": lambda store: shutil.rmtree(store.artifacts),
        "weights deleted": lambda store: shutil.rmtree(store.home / "checkpoints"),
    }
