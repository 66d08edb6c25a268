"""A fine-tuned model for MLflow: the files that `mlflow.pyfunc.load_model` reads, and their loader."""

from __future__ import annotations

import json
import logging
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import AnyType

from medmim import __version__
from medmim.data.formats.nifti import Image, read_image
from medmim.data.formats.write_volume import write_volume
from medmim.errors import DataError, counted
from medmim.stages.predict.outputs import VolumePrediction
from medmim.stages.predict.run import predict
from medmim.training.tasks.trained_model import load_trained_model
from medmim.training.weights import WEIGHTS

_log = logging.getLogger(__name__)
_BOX = tuple(f"{end}_{axis}_voxel" for end in ("first", "last") for axis in "xyz")
_EXAMPLE = {"columns": ["scan"], "data": [["scan.nii.gz"]]}


def mlflow_files(task: str, names: Sequence[str]) -> dict[str, str]:
    """Return the texts that turn a folder with `weights.safetensors` into an MLflow model, by file name."""
    shares = [f"p_{name}" for name in names]
    of_task = dict.fromkeys(("classify", "multilabel", "ordinal"), shares) | {"regress": ["value"]}
    text = {"multilabel": "classes", "regress": "quantity"}.get(task, "class")
    numbers = of_task.get(task, ["score", *_BOX])
    columns = [
        ColSpec("long", "scan"),
        ColSpec("string", text),
        *(ColSpec("double", one) for one in numbers),
    ]
    outputs = Schema([ColSpec(AnyType())] if task == "segment" else columns)
    example = {"artifact_path": "input_example.json", "type": "dataframe", "pandas_orient": "split"}
    model = Model(
        # paths or arrays, so the column has any type
        signature=ModelSignature(inputs=Schema([ColSpec(AnyType())]), outputs=outputs),
        saved_input_example_info=example,
    )
    model.add_flavor("python_function", loader_module=__name__, python_version=platform.python_version())
    return {
        "MLmodel": model.to_yaml(),
        "requirements.txt": f"medmim=={__version__}\n",
        "input_example.json": json.dumps(_EXAMPLE),
    }


def _warn(line: str) -> None:
    """Keep the warnings of a prediction; its other lines are for the terminal."""
    if line.startswith("warning"):
        _log.warning(line.removeprefix("warning: "))


class MlflowModel:
    """What `mlflow.pyfunc.load_model` wraps; the predictions are those of `medmim predict`."""

    def __init__(self, weights: Path) -> None:
        self.weights = weights
        self.kind = load_trained_model(weights).kind

    def predict(self, model_input: Any, params: Any = None) -> list[np.ndarray] | pd.DataFrame:
        """Predict scans.

        Args:
            model_input: paths or arrays: a list of paths, or a Series or a DataFrame of one column. Arrays
                are volumes with voxels of 1 mm whose axes run towards right, anterior and superior; scans
                with other voxels are given as files.

        Returns:
            A label volume for each scan on its own grid; for other tasks a table of classes or boxes, with
            the number of the scan.

        Raises:
            DataError: for a scan that cannot be predicted, or a path with several volumes.
        """
        scans = model_input.iloc[:, 0] if isinstance(model_input, pd.DataFrame) else model_input
        labels, rows = [], []
        for number, scan in enumerate(scans):
            with tempfile.TemporaryDirectory(prefix="medmim-") as folder:
                try:
                    made = self._predict(scan, Path(folder))
                except DataError as error:
                    text, temporary, _ = str(error).partition(f"'{folder}")
                    text = text.rpartition(";")[0] if temporary else text  # no file that is deleted now
                    raise DataError(f"scan {number}, counted from 0: {text}", reason=error.reason) from error
                labels += [] if made.label is None else [read_image(made.label).array]
                rows += [{"scan": number, **row} for row in made.rows]
        if self.kind == "segment":
            return labels
        known = ["scan", "class", "score", *_BOX] if self.kind == "detect" else None
        return pd.DataFrame(rows, columns=known).drop(columns="volume", errors="ignore")

    def _predict(self, scan: Any, folder: Path) -> VolumePrediction:
        if isinstance(scan, str | Path):
            source = Path(scan)
        elif np.ndim(scan) < 3:
            raise DataError(
                f"expected a path, or an array of three axes, got {np.ndim(scan)} axes: give a picture as a "
                "file, and several arrays as a pandas.Series",
                reason="no_volume",
            )
        else:
            source = folder / "scan.nii.gz"
            write_volume(Image(np.asarray(scan), np.eye(4)), source)
        words: dict[str, Any] = {
            "home": folder / "home",
            "model": str(self.weights),
            "log": _warn,
        }
        predictions = list(predict(source, folder / "out", **words).volumes.values())
        if len(predictions) != 1:
            raise DataError(
                f"'{source}' contains {counted(len(predictions), 'volume')}, expected one: give one path "
                "for each",
                reason="several_volumes",
            )
        return predictions[0]


def _load_pyfunc(path: str) -> MlflowModel:
    """Load a model; MLflow calls this with the folder of the model."""
    return MlflowModel(Path(path) / WEIGHTS)
