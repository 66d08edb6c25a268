import csv
import errno
import json

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import threshold
import tiny
from monai.inferers.inferer import SlidingWindowInferer
from PIL import Image as Picture

from medmim.config.runs import FinetuneSettings
from medmim.data.dataset.contamination_certificate import seen_patients_of, write_seen_patients
from medmim.data.dataset.manifest import DatasetInfo, read_dataset, write_dataset
from medmim.data.formats.nifti import Image, read_image
from medmim.data.formats.write_volume import encode_image
from medmim.data.loading.normalisation import LEGACY
from medmim.errors import DataError, RunError, UsageError
from medmim.stages.finetune.run import finetune
from medmim.stages.ingest import ingest
from medmim.stages.model_lookup import FoldsOf
from medmim.stages.predict.outputs import OUTPUTS, Extras
from medmim.stages.predict.run import predict
from medmim.stages.unlike_training_data import UNLIKE, TrainingData

THRESHOLD = 1.5  # of normalised grey values; between noise and the ball of `tiny.blob`


def quiet(line):
    """Take a line for the user."""


def blob_file(path, *, orientation="RAS", spacing=(1.0, 1.0, 1.0), seed=0):
    """Write a NIfTI file with a blob; return what is brighter than its half, which a model should mark."""
    image, _ = tiny.blob(np.random.default_rng(seed), tiny.SHAPE)
    affine = tiny.affine_of(orientation, spacing, tiny.SHAPE)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_image(Image(image, affine)))
    low, high = np.percentile(image, [0.5, 99.5])
    seen = np.clip((image - low) / (high - low), 0, 1)
    return (seen - seen.mean()) / seen.std() > THRESHOLD, affine


@pytest.fixture
def weights(tmp_path):
    return threshold.write_model(tmp_path / "model", THRESHOLD)


def test_scans_of_patients_that_the_model_was_trained_on_are_counted(study, tmp_path):
    said, model = [], str(study.tuned.checkpoint)
    made = predict(study.data, tmp_path / "out", home=study.home, model=model, log=said.append, force=True)
    [line] = made.warnings
    assert line.startswith("this model was trained on the patient or the voxels of 8 of 10 scans")
    assert f"warning: {line}" in said
    assert line in json.loads((made.out / "predictions.json").read_text())["warnings"]


def test_scans_with_voxels_that_the_model_was_trained_on_are_counted(weights, tmp_path, home, new_home):
    """Another home has other keys of patients."""
    blob_file(tmp_path / "scans/known.nii.gz")
    ingest(tmp_path / "scans", tmp_path / "data", home=new_home(), workers=1)
    write_seen_patients(weights.parent, seen_patients_of(read_dataset(tmp_path / "data").volumes))
    blob_file(tmp_path / "scans/new.nii.gz", seed=1)
    [line] = predict(tmp_path / "scans", tmp_path / "out", home=home, model=str(weights)).warnings
    assert line.startswith("this model was trained on the patient or the voxels of 1 of 2 scans")
    (tmp_path / "scans/known.nii.gz").unlink()
    assert not predict(tmp_path / "scans", tmp_path / "out", home=home, model=str(weights)).warnings


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "SLA", "PIR"])
def test_labels_lie_on_the_voxels_of_the_source(orientation, weights, tmp_path, home):
    expected, affine = blob_file(
        tmp_path / "scans" / "a.nii.gz", orientation=orientation, spacing=(1, 1.2, 2)
    )
    made = predict(tmp_path / "scans", tmp_path / "out", home=home, model=str(weights))
    [path] = (made.out / "segmentations").iterdir()
    found = read_image(path)
    np.testing.assert_array_equal(found.array > 0, expected)
    np.testing.assert_allclose(found.affine, affine, atol=1e-5)
    assert not made.dicom
    assert json.loads((made.out / "predictions.json").read_text())["classes"] == {"1": "ball"}


def test_labels_are_written_with_the_codes_of_the_dataset(tmp_path, home):
    plan = {"label_codes": [1035], "normalisation": LEGACY.as_json(), "mirror_axes": []}
    weights = threshold.write_model(tmp_path / "model", THRESHOLD, **plan)
    expected, _ = blob_file(tmp_path / "scans" / "a.nii.gz")
    made = predict(tmp_path / "scans", tmp_path / "out", home=home, model=str(weights))
    [path] = (made.out / "segmentations").iterdir()
    np.testing.assert_array_equal(read_image(path).array == 1035, expected)
    assert json.loads((made.out / "predictions.json").read_text())["classes"] == {"1035": "ball"}


def test_the_postprocessing_of_the_model_is_applied(tmp_path, home):
    rules = {"postprocessing": {"ball": {"min_ml": 1e6}}}
    weights = threshold.write_model(tmp_path / "model", THRESHOLD, chosen=rules)
    blob_file(tmp_path / "scans" / "a.nii.gz")
    made = predict(tmp_path / "scans", tmp_path / "out", home=home, model=str(weights))
    [path] = (made.out / "segmentations").iterdir()
    assert not read_image(path).array.any()
    nothing = threshold.write_model(tmp_path / "nothing", 99.0)
    other = predict(tmp_path / "scans", tmp_path / "other", home=home, model=str(nothing))
    drawn, expected = ((one.out / "pictures" / "a.png").read_bytes() for one in (made, other))
    assert drawn == expected


def test_several_models_are_averaged(tmp_path, home):
    """Thresholds of 1 and 2 average to one of 1.5; rules of one member alone are not applied."""
    rules = {"postprocessing": {"ball": {"min_ml": 1e6}}}
    low = threshold.write_model(tmp_path / "low", THRESHOLD - 0.5, chosen=rules)
    high = threshold.write_model(tmp_path / "high", THRESHOLD + 0.5)
    expected, _ = blob_file(tmp_path / "scans" / "a.nii.gz")
    made = predict(tmp_path / "scans", tmp_path / "out", home=home, model=[str(low), str(high)])
    [path] = (made.out / "segmentations").iterdir()
    np.testing.assert_array_equal(read_image(path).array > 0, expected)
    assert made.model["name"] == "weights.safetensors + weights.safetensors"


def test_segmenters_of_other_spacing_are_averaged_on_the_grid_of_the_first(weights, tmp_path, home):
    """The mean of one model with itself at half the resolution finds the same ball, but for its edge."""
    expected, _ = blob_file(tmp_path / "scans" / "a.nii.gz")
    coarse = threshold.write_model(tmp_path / "coarse", THRESHOLD, spacing_mm=[1.5, 1.5, 1.5])
    made = predict(tmp_path / "scans", tmp_path / "out", home=home, model=[str(weights), str(coarse)])
    [path] = (made.out / "segmentations").iterdir()
    found = read_image(path).array > 0
    assert 2 * (found & expected).sum() / (found.sum() + expected.sum()) > 0.9


def test_scans_must_resemble_the_training_data_of_every_averaged_model(weights, tmp_path, home):
    data = TrainingData(
        modalities=("MR",),
        images_2d=False,
        volumes_3d=True,
        spacing_mm=((1, 1),) * 3,
        extent_mm=((90, 99),) * 3,
    )
    other = threshold.write_model(tmp_path / "other", THRESHOLD, training_data=data.model_dump(mode="json"))
    blob_file(tmp_path / "scans" / "a.nii.gz")
    (tmp_path / "scans" / "dataset.json").write_text('{"labels": {}}')  # of nnU-Net, no dataset of medmim
    with pytest.raises(DataError, match="refused a: it has an extent of 16×16×20 mm, but the model was"):
        predict(tmp_path / "scans", tmp_path / "out", home=home, model=[str(weights), str(other)])


def test_models_of_other_classes_are_not_averaged(weights, tmp_path, home):
    other = threshold.write_model(tmp_path / "other", THRESHOLD, label_codes=[7])
    blob_file(tmp_path / "scans" / "a.nii.gz")
    with pytest.raises(UsageError, match="model 2 differs from the first in label_codes"):
        predict(tmp_path / "scans", tmp_path / "out", home=home, model=[str(weights), str(other)])
    with pytest.raises(RunError, match="--folds all: expected a run or a registered model, got the file"):
        predict(tmp_path / "scans", tmp_path / "out", home=home, model=FoldsOf(str(weights)))


def test_volumes_are_in_the_order_of_their_numbers_and_as_many_drawn_as_asked(weights, tmp_path, home):
    for number in (10, 2):
        blob_file(tmp_path / "scans" / f"case_{number}.nii.gz", seed=number)
    made = predict(
        tmp_path / "scans", tmp_path / "out", home=home, model=str(weights), extras=Extras(pictures=1)
    )
    assert [path.name for path in (made.out / "pictures").iterdir()] == ["case_2.png"]
    for table, column in (("volumes.csv", "name"), ("sources.csv", "prediction")):
        rows = csv.DictReader((made.out / table).open())
        assert [row[column] for row in rows] == ["case_2", "case_10"]


def test_probabilities_are_saved_on_request(weights, tmp_path, home):
    expected, affine = blob_file(tmp_path / "scans" / "a.nii.gz")
    made = predict(
        tmp_path / "scans", tmp_path / "out", home=home, model=str(weights), extras=Extras(probabilities=True)
    )
    [path] = (made.out / "probabilities").iterdir()
    saved = np.load(path)
    np.testing.assert_array_equal(saved["probabilities"].argmax(axis=0) > 0, expected)
    np.testing.assert_allclose(saved["affine"], affine, atol=1e-5)
    assert saved["probabilities"].dtype == np.float16


@pytest.mark.parametrize("ending", ["nii.gz", "nrrd", "mha"])
def test_a_single_file_is_a_source(ending, weights, tmp_path, home):
    expected, _ = blob_file(tmp_path / "scan.nii.gz")
    path = tmp_path / f"scan.{ending}"
    if ending != "nii.gz":
        sitk.WriteImage(sitk.ReadImage(str(tmp_path / "scan.nii.gz")), str(path))
    made = predict(path, tmp_path / "out", home=home, model=str(weights))
    [label] = (made.out / "segmentations").iterdir()
    assert np.count_nonzero(read_image(label).array) == np.count_nonzero(expected)


def test_pictures_are_a_source(tmp_path, home):
    weights = threshold.write_model(tmp_path / "model", THRESHOLD, dims=2)
    bright = np.full((20, 30), 20, np.uint8)
    bright[5:9, 12:20] = 220
    (tmp_path / "scans").mkdir()
    Picture.fromarray(bright).save(tmp_path / "scans" / "one.png")
    made = predict(tmp_path / "scans", tmp_path / "out", home=home, model=str(weights))
    [label] = (made.out / "segmentations").iterdir()
    np.testing.assert_array_equal(read_image(label).array[:, :, 0].T > 0, bright > 100)
    [row] = csv.DictReader((made.out / "volumes.csv").open())
    assert (row["voxels"], row["ml"]) == ("32", "")  # nobody told the size of its pixels
    [picture] = (made.out / "pictures").iterdir()
    with Picture.open(picture) as drawn:
        assert drawn.format == "PNG"


def test_a_dataset_folder_is_a_source(tiny_dataset, weights, tmp_path, home):
    made = predict(tiny_dataset, tmp_path / "out", home=home, model=str(weights))
    assert set(made.volumes) == {volume.id for volume in read_dataset(tiny_dataset).volumes}
    assert not (made.out / "ledger.jsonl").exists()


def test_files_that_cannot_be_used_are_named_and_the_others_go_on(weights, tmp_path, home):
    blob_file(tmp_path / "scans" / "b.nii.gz")
    whole = (tmp_path / "scans" / "b.nii.gz").read_bytes()
    (tmp_path / "scans" / "a.nii.gz").write_bytes(whole[: len(whole) // 2])
    made = predict(tmp_path / "scans", tmp_path / "out", home=home, model=str(weights))
    assert len(made.volumes) == 1
    assert dict(made.files) == {0: "truncated"}


def test_a_volume_that_fails_does_not_stop_the_others(tiny_dataset, weights, tmp_path, home, monkeypatch):
    real, volumes = SlidingWindowInferer.__call__, read_dataset(tiny_dataset).volumes
    raised = {3: RuntimeError("SMITH^JOHN"), 5: MemoryError()}
    turns = iter(range(len(volumes)))

    def fails_twice(*words, **more):
        error = raised.get(next(turns))
        if error:
            raise error
        return real(*words, **more)

    monkeypatch.setattr(SlidingWindowInferer, "__call__", fails_twice)
    said = []
    made = predict(tiny_dataset, tmp_path / "out", home=home, model=str(weights), log=said.append)
    assert dict(made.failures) == {volumes[3].id: "network_failed", volumes[5].id: "out_of_memory"}
    assert len(made.volumes) == 8
    assert "SMITH" not in " ".join(said)


def test_nothing_usable_ends_in_an_error_and_a_table_of_source_files(weights, tmp_path, home):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.nii.gz").write_bytes(b"\x1f\x8bnothing")
    with pytest.raises(DataError, match=r"no usable scan .*sources.csv") as caught:
        predict(tmp_path / "scans", tmp_path / "out", home=home, model=str(weights))
    assert caught.value.exit_code == 1
    assert (tmp_path / "out" / "ledger.jsonl").is_file()
    assert "a.nii.gz,quarantined," in (tmp_path / "out" / "sources.csv").read_text()


def test_folders_in_each_other_are_refused(weights, tmp_path, home):
    blob_file(tmp_path / "scans" / "a.nii.gz")
    with pytest.raises(UsageError, match="is inside the source"):
        predict(tmp_path / "scans", tmp_path / "scans" / "out", home=home, model=str(weights))
    with pytest.raises(UsageError, match="does not exist"):
        predict(tmp_path / "gone", tmp_path / "out", home=home, model=str(weights))


def test_an_earlier_prediction_is_replaced(weights, tmp_path, home):
    for name in ("first", "second"):
        blob_file(tmp_path / name / f"{name}.nii.gz")
        made = predict(tmp_path / name, tmp_path / "out", home=home, model=str(weights))
    assert [path.name for path in (made.out / "segmentations").iterdir()] == ["second.nii.gz"]


def tuned(task, dims, data, home, **more):
    words = {**tiny.TINY, "data": data, "task": task, "dims": dims, "steps": 2, "num_evaluations": 1, **more}
    return finetune(FinetuneSettings(**words, init="scratch"), home=home, log=quiet)


def test_a_pretrained_encoder_is_no_model(study, tmp_path, home):
    with pytest.raises(RunError, match="contain only an encoder"):
        predict(study.data, tmp_path / "out", home=home, model=str(study.pretrained.checkpoint))


def test_one_slice_is_predicted_by_a_network_for_volumes_only_if_forced(tiny_dataset, tmp_path, home):
    result = tuned("classify", 3, tiny_dataset, home)
    blob_file(tmp_path / "scans" / "a.nii.gz")
    Picture.fromarray(np.eye(40, dtype=np.uint8) * 200).save(tmp_path / "scans" / "b.png")
    words = {"home": home, "model": str(result.checkpoint)}
    assert list(predict(tmp_path / "scans", tmp_path / "out", **words).failures.values()) == [UNLIKE]
    made = predict(tmp_path / "scans", tmp_path / "out", force=True, **words)
    assert (len(made.volumes), made.failures) == (2, {})
    [(forced, reason)] = made.forced.items()
    assert made.name(forced) == "b"
    assert reason.startswith("it is a single 2D image, but the model was trained on")
    table = list(csv.DictReader((made.out / OUTPUTS["classify"].table).open()))
    assert {row["name"]: row["forced"] for row in table} == {"a": "", "b": reason}


def test_scans_of_another_modality_are_refused_unless_forced(tiny_dataset, tmp_path, home):
    result = tuned("classify", 3, tiny_dataset, home)
    image, _ = tiny.blob(np.random.default_rng(0), tiny.SHAPE)
    rows = [
        tiny.write_volume(tmp_path / "data", f"p{n}", image, np.eye(4), modality=kind)
        for n, kind in enumerate(["CT", "MR", "OT"])
    ]
    write_dataset(tmp_path / "data", DatasetInfo(name="mixed"), rows, [])
    said = []
    words = {"home": home, "model": str(result.checkpoint), "log": said.append}
    refused = predict(tmp_path / "data", tmp_path / "out", **words)
    [ct] = (volume.id for volume in read_dataset(tmp_path / "data").volumes if volume.modality == "CT")
    assert refused.failures == {ct: "unlike_training_data"}
    trained_on = "MR volumes of 16 × 16 × 20 mm with voxels of 1 × 1 × 1 mm"
    reason = f"it is CT, but the model was trained on {trained_on}"
    assert f"warning: {ct}: {reason}; use --force to predict it" in said
    made = predict(tmp_path / "data", tmp_path / "out", force=True, **words)
    assert (made.failures, made.forced) == ({}, {ct: reason})
    [warning] = made.warnings
    assert warning.startswith("modality of 1 of 3 scans: CT, but the model was trained on MR")
    index = json.loads((made.out / "predictions.json").read_text())
    assert (index["warnings"], index["forced"]) == ([warning], {ct: reason})
    [seen] = predict(tiny_dataset, tmp_path / "same", **words).warnings  # none about the modality
    assert seen.startswith("this model was trained on the patient or the voxels of 8 of 10 scans")


def test_a_scan_that_tells_no_modality_is_taken_for_what_the_model_learnt(tmp_path, home):
    image, _ = tiny.blob(np.random.default_rng(0), tiny.SHAPE)
    grown = (image * 20 - 1500).astype(np.float32)  # beyond the range that CT is clipped to
    model = threshold.write_model(tmp_path / "model", 0.0)
    described = model.with_suffix(".json")
    described.write_text(json.dumps({**json.loads(described.read_text()), "modalities": ["CT"]}))
    found = {}
    for kind in ("CT", "OT"):
        row = tiny.write_volume(tmp_path / kind, "p", grown, np.eye(4), modality=kind)
        write_dataset(tmp_path / kind, DatasetInfo(name=kind), [row], [])
        made = predict(tmp_path / kind, tmp_path / f"of {kind}", home=home, model=str(model), log=quiet)
        [label] = (made.out / "segmentations").iterdir()
        found[kind] = (read_image(label).array, made.warnings)
    assert found["CT"][0].any()
    np.testing.assert_array_equal(found["CT"][0], found["OT"][0])
    assert found["CT"][1] == ()
    assert found["OT"][1] == ("no modality of 1 of 1 scan: assumed to be CT, in Hounsfield units",)


def test_labels_of_regions_are_written_in_their_order_by_one_model_and_by_several(tmp_path, home):
    """The mean probability of thresholds 0.5 lower and higher is above 0.5 where the single model's is."""
    models = [
        str(
            threshold.write_model(tmp_path / f"model {shift}", (0.4 + shift, 2.0 + shift), **threshold.NESTED)
        )
        for shift in (0.0, -0.5, 0.5)
    ]
    image, _ = tiny.blob(np.random.default_rng(0), tiny.SHAPE)
    blob_file(tmp_path / "scans" / "a.nii.gz")
    low, high = np.percentile(image, [0.5, 99.5])
    seen = np.clip((image - low) / (high - low), 0, 1)
    seen = (seen - seen.mean()) / seen.std()
    expected = np.where(seen > 2.0, 4, np.where(seen > 0.4, 9, 0))
    assert np.unique(expected).tolist() == [0, 4, 9]
    for name, chosen in (("one", models[:1]), ("several", models[1:])):
        made = predict(tmp_path / "scans", tmp_path / name, home=home, model=chosen)
        [path] = (made.out / "segmentations").iterdir()
        np.testing.assert_array_equal(read_image(path).array, expected)
    assert json.loads((made.out / "predictions.json").read_text())["classes"] == {"9": "core", "4": "rim"}


def test_an_output_folder_without_locks_is_reported_with_the_way_out(weights, tmp_path, home, monkeypatch):
    blob_file(tmp_path / "scans" / "a.nii.gz")

    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(RunError, match=r"No locks available\): this network folder .* --out on a local disk"):
        predict(tmp_path / "scans", tmp_path / "out", home=home, model=str(weights))
