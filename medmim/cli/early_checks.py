"""Checks of names, paths and run ids before PyTorch and MLflow are imported, so that a typo fails at once.

They repeat checks of the stages, and leave to the stages what they cannot decide.
"""

from __future__ import annotations

import dataclasses
import os
import re
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medmim import files
from medmim.cli.options import home
from medmim.errors import RunError, UsageError, unknown_name
from medmim.tracking.run_ids import COMPARE, INIT, MODEL, RUNS_NAMED, RunOption

# the names of the tables in medmim.encoders, masks, methods and heads, which import PyTorch; a test compares
NAMES = {
    "encoder": ("convnext", "dynunet", "resenc", "resnet18", "resnet50", "segresnet", "swin", "vit"),
    "mask": ("mesh", "random", "block", "square", "patch", "grid", "combined", "gap", "tissue"),
    "method": (
        *("latent_mim", "mae", "simmim", "spark", "mask_any_net", "contrastive"),
        *("anatomask", "dense_mae", "mim_contrast", "models_genesis", "volume_fusion", "voco"),
    ),
    "task": ("classify", "detect", "multilabel", "ordinal", "regress", "segment"),
}
_ON_DATASET = ("pretrain", "finetune", "plan")  # commands whose --data is medmim-data by default
_MAY_NAME_INIT = ("init", "config", "overrides", "resume")
_OWN_CHECKS = ("masks", "models", "promote")  # of datasets and models, after those of their usage
_OUT_IS_FOLDER = ("ingest", "predict", "demo", "evaluate")
_ENDING_OF_OUT = {"masks": ".png", "embed": ".parquet"}
_NAMES_STUDY = {"compare": "compare --study", "pack": "pack"}
_OF_MODEL = {  # what follows a sign in --model, and the query for those that exist
    ":": (
        "version",
        "SELECT version FROM model_versions WHERE name = ? AND current_stage != 'Deleted_Internal'",
    ),
    "@": ("alias", "SELECT alias FROM registered_model_aliases WHERE name = ? ORDER BY alias"),
}
_PATHS = ("source", "image", "labels", "file", "subjects", "splits", "label_map", "targets")


def check_parameters(command: str, parameters: Mapping[str, Any]) -> None:
    """Check the parsed parameters of a command.

    Raises:
        UsageError: for an unknown name or a missing path.
        DataError: for a dataset that does not exist.
        RunError: for a run or weights file that does not exist.
    """
    if command != "settings":  # its tasks include pretrain and study
        _check_names(parameters)
    for name in _PATHS:
        path = parameters.get(name)
        if isinstance(path, Path) and not os.path.lexists(path):
            raise UsageError(f"'{path}' does not exist: expected a file or folder; check the path")
    _check_out(command, parameters.get("out"))
    if command in _OWN_CHECKS:
        return
    if command == "sync":
        _check_server(parameters.get("uri"))
    _check_layout(parameters.get("layout"))
    if command == "study" and parameters.get("config"):
        from medmim.config.study import StudySettings
        from medmim.config.yaml_settings import find_config

        find_config(parameters["config"], StudySettings)
    _check_dataset(command, parameters)
    _check_run(INIT, parameters.get("init"))
    _check_pretraining(command, parameters)
    _check_run(MODEL, parameters.get("model"))
    _check_stored(command, parameters)


def _check_names(parameters: Mapping[str, Any]) -> None:
    for kind, known in NAMES.items():
        for word in _words(parameters.get(kind) or (parameters.get("names") if kind == "mask" else None)):
            if ":" not in word and word not in known:
                raise unknown_name(kind, word, known)


def _check_stored(command: str, parameters: Mapping[str, Any]) -> None:
    """Check the runs of a comparison and the name of a study."""
    if command == "compare":
        _check_run(COMPARE, parameters.get("runs"))
    if command in _NAMES_STUDY and parameters.get("study"):
        _check_study(_NAMES_STUDY[command], parameters["study"])


def _words(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(word for word in value or () if isinstance(word, str))


def _check_out(command: str, out: Any) -> None:
    """Refuse a file where a folder is written, and the name of another kind of file."""
    if not isinstance(out, Path):
        return
    if command in _OUT_IS_FOLDER and out.is_file():
        raise UsageError(f"--out '{out}' is a file: expected a folder; choose another path")
    ending = _ENDING_OF_OUT.get(command)
    if ending and out.suffix.lower() != ending:
        raise UsageError(f"--out '{out}': expected the name of a {ending} file, such as {command}{ending}")


def _check_server(uri: str | None) -> None:
    """Refuse a folder, or a host without a scheme, of which MLflow would make a folder of runs."""
    if uri and ("://" not in uri or uri.startswith("file:")):
        raise UsageError(
            f"--to: expected the address of an MLflow server, such as https://mlflow.example.org, got '{uri}'"
        )


def _check_layout(name: str | None) -> None:
    known = [path.stem for path in files.shipped("data_manifests").glob("*.yaml")]
    if name and name not in known and not (name.endswith((".yaml", ".yml")) and Path(name).is_file()):
        raise unknown_name("dataset descriptor", name, known)


def _check_dataset(command: str, parameters: Mapping[str, Any]) -> None:
    """Let `read_dataset` raise its error where there is no dataset."""
    if command == "compare" and not parameters.get("seeds"):
        return  # only the training of missing seeds reads a dataset
    path = parameters.get("data") or parameters.get("dataset")
    if path is None and command in _ON_DATASET and not parameters.get("config"):
        open_ended = parameters.get("resume") or parameters.get("overrides")  # either may name the dataset
        path = None if open_ended else Path("medmim-data")
    if isinstance(path, Path) and not (path / "dataset.json").is_file():
        from medmim.data.dataset.manifest import read_dataset

        read_dataset(path)


def _check_run(option: RunOption, value: Any) -> None:
    for word in _words(value):
        if option is not COMPARE and files.names_weights_file(word):
            if not Path(word).is_file():
                raise RunError(f"{option.name} {word}: no such file; expected a file of weights")
        elif option is not INIT or word != "scratch":
            _check_word(option, word)


def _check_word(option: RunOption, word: str) -> None:
    database = home() / "mlflow.db"
    if option is MODEL:
        models = [str(name) for (name,) in _rows(database, "SELECT name FROM registered_models") or ()]
        if re.split("[@:]", word, maxsplit=1)[0] in models:
            _check_version(word, database)
            return
        option = dataclasses.replace(option, models=models)
    if _rows(database, RUNS_NAMED, word) == []:
        known = _rows(database, "SELECT run_uuid FROM runs WHERE lifecycle_stage = 'active'")
        raise option.unknown(word, [str(one) for (one,) in known or ()])


def _check_version(word: str, database: Path) -> None:
    """Check the version of NAME:VERSION, and the alias of NAME@ALIAS, for a registered NAME."""
    name, sign, wanted = re.match(r"([^@:]*)([@:]?)(.*)", word, re.DOTALL).groups()  # type: ignore[union-attr]
    if not sign:
        return
    kind, query = _OF_MODEL[sign]
    known = [str(one) for (one,) in _rows(database, query, name) or ()]
    if wanted not in known:
        there = f"it has {', '.join(known)}" if known else "it has none"
        raise RunError(
            f"--model {word}: model '{name}' has no {kind} '{wanted}': {there}; see `medmim models`"
        )


def _check_pretraining(command: str, parameters: Mapping[str, Any]) -> None:
    if (
        command != "finetune"
        or not parameters.get("task")
        or any(parameters.get(name) for name in _MAY_NAME_INIT)
    ):
        return
    query = "SELECT count(*) FROM tags WHERE key = 'stage' AND value = 'pretrain'"
    if _rows(home() / "mlflow.db", query) in ([], [(0,)]):
        raise RunError(
            "--init: no finished pretraining run on this dataset; run `medmim pretrain` or use --init scratch"
        )


def _check_study(option: str, name: str) -> None:
    query = "SELECT count(*) FROM tags WHERE key = 'study' AND value = ?"
    if _rows(home() / "mlflow.db", query, name) in ([], [(0,)]):
        raise RunError(f"{option} {name}: no runs of this study here: run `medmim study` first")


def _rows(database: Path, query: str, *values: str) -> list[tuple[Any, ...]] | None:
    """Return the rows of a query; none without a database, None where it cannot be read this way."""
    if not database.is_file():  # the command itself reports a lost database, or a home that is a file
        return None if database.parent.is_file() or (database.parent / "checkpoints").is_dir() else []
    try:
        connection = sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True, timeout=1)
        try:
            return connection.execute(query, values).fetchall()
        finally:
            connection.close()
    except sqlite3.Error:
        return None
