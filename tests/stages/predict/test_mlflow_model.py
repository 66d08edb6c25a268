"""Registered models that MLflow itself loads."""

import mlflow
import numpy as np
import pandas as pd
import pytest
import threshold

from medmim.data.dataset.manifest import read_dataset
from medmim.data.formats.nifti import read_image
from medmim.errors import DataError
from medmim.stages.predict.mlflow_model import MlflowModel, mlflow_files
from medmim.stages.predict.run import predict
from medmim.tracking.mlflow_store import Store


@pytest.fixture
def registry(study):
    """MLflow with the store of the session's runs."""
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    store = Store(study.home)
    mlflow.set_tracking_uri(store.uri)
    mlflow.set_registry_uri(store.uri)
    yield store
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri(before[1])


def test_mlflow_predicts_what_medmim_predicts(study, registry, tmp_path):
    [version] = registry.client.search_model_versions(f"run_id = '{study.tuned.run_id}'")
    model = mlflow.pyfunc.load_model(f"models:/{version.name}/{version.version}")
    assert model.metadata.signature is not None
    assert model.input_example["scan"].tolist() == ["scan.nii.gz"]
    volume = read_dataset(study.data).volumes[0]
    path = study.data / volume.image
    [from_path] = model.predict([str(path)])
    [from_array] = model.predict(pd.Series([read_image(path).array]))
    ours = predict(path, tmp_path / "out", home=study.home, model=study.tuned.run_id)
    [written] = (ours.out / "segmentations").iterdir()
    np.testing.assert_array_equal(from_path, read_image(written).array)
    np.testing.assert_array_equal(from_array, from_path)
    with pytest.raises(DataError, match=r"scan 0, counted from 0: expected .* three axes, got 2 axes"):
        model.predict(pd.Series([np.zeros((8, 8))]))


def test_warnings_of_a_prediction_are_kept(tmp_path, caplog):
    model = threshold.write_model(tmp_path / "model", 1.5, modalities=["CT"])
    array = np.random.default_rng(0).normal(size=(16, 16, 16)).astype(np.float32)
    with caplog.at_level("WARNING", "medmim"):
        MlflowModel(model).predict([array])
    assert "no modality of 1 of 1 scan: assumed to be CT, in Hounsfield units" in caplog.messages


def test_an_array_that_cannot_be_predicted_is_named_by_its_position(tmp_path):
    """The error named files of a folder that is deleted by then."""
    model = threshold.write_model(tmp_path / "model", 1.5, modalities=["CT"])
    array = np.random.default_rng(0).normal(size=(16, 16, 16)).astype(np.float32)
    wrong = np.where(array == array.max(), np.nan, array)
    with pytest.raises(
        DataError, match=r"^scan 1, counted from 0: .* no usable scan \(non_finite_voxels\)$"
    ) as caught:
        MlflowModel(model).predict([array, wrong])
    assert caught.value.reason == "nothing_predicted"


def test_the_logged_model_of_a_run_has_its_files(study, registry):
    [output] = registry.client.get_run(study.tuned.run_id).outputs.model_outputs
    logged = registry.client.get_logged_model(output.model_id)
    folder = mlflow.artifacts.download_artifacts(logged.artifact_location)
    names = {"MLmodel", "requirements.txt", "input_example.json", "weights.safetensors", "weights.json"}
    assert names <= {path.name for path in (registry.home / folder).iterdir()}


def test_the_signature_of_a_classifier_names_its_probabilities():
    text = mlflow_files("classify", ["calm", "odd"])["MLmodel"]
    assert "p_calm" in text
    assert "p_odd" in text
