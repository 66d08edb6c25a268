"""Segmenters as MONAI bundles, which give the same labels without medmim."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import threshold
import torch
from monai.bundle import ConfigParser

from medmim.data.dataset.manifest import read_dataset
from medmim.data.formats.nifti import read_image
from medmim.data.loading.preprocess import PreprocessedVolume
from medmim.errors import UsageError
from medmim.stages.export.run import LARGEST_DIFFERENCE, export
from medmim.stages.predict.run import predict
from medmim.training.evaluation.inference import mirrored
from medmim.training.tasks.trained_model import load_trained_model

BUNDLES = {  # dimensions, spacing of the model, options of its prediction; None: nested regions
    "3d": (3, {}, {}),
    "3d resampled mirrored": (3, {"spacing_mm": [1.3] * 3}, {"mirror": True}),
    "2d mirrored": (2, {}, {"mirror": True}),
    "2d resampled mirrored": (2, {"spacing_mm": [1.3] * 3}, {"mirror": True}),
    "2d of another voxel size": (2, {"common_mm": [0.8] * 3}, {}),
    "3d regions": (3, {}, None),
}
# one process for all bundles: it takes longer to import MONAI than to run it
RUN_WITHOUT_MEDMIM = """
import json, os, runpy, sys
sys.modules["medmim"] = None
for folder, words in json.loads(sys.argv[1]):
    os.chdir(folder)
    sys.argv = ["monai.bundle", "run", *words]
    runpy.run_module("monai.bundle", run_name="__main__")
"""


@pytest.fixture(scope="module")
def run_bundles(varied_dataset, new_home, tmp_path_factory):
    """The segmentation of one volume by medmim and by MONAI, of the model of every bundle."""
    home, folder = new_home(), tmp_path_factory.mktemp("bundles")
    volume, runs, found = read_dataset(varied_dataset).volumes[2], [], {}
    for name, (dims, spacing, options) in BUNDLES.items():
        place = folder / name.replace(" ", "-")
        place.mkdir()
        level, more = ((0.5, 1.5), threshold.NESTED) if options is None else (1.5, {"options": options})
        model = threshold.write_model(place / "model", level, dims=dims, **spacing, **more)
        made = export("bundle", data=varied_dataset, home=home, model=str(model), out=place / "bundle")
        assert made.difference <= LARGEST_DIFFERENCE
        predictions = predict(varied_dataset, place / "out", home=home, model=str(model))
        words = ["--config_file", "configs/inference.json", "--bundle_root", "."]
        words += ["--image", str(varied_dataset / volume.image), "--output_dir", str(place / "eval")]
        runs.append((str(made.path), words))
        found[name] = predictions.out / "segmentations" / f"{volume.id}.nii.gz", place / "eval"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ran = subprocess.run(
        [sys.executable, "-c", RUN_WITHOUT_MEDMIM, json.dumps(runs)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return found


@pytest.mark.parametrize("name", BUNDLES)
def test_monai_runs_the_bundle_without_medmim(name, run_bundles):
    _, spacing, options = BUNDLES[name]
    path, folder = run_bundles[name]
    [written] = folder.rglob("*.nii.gz")
    ours, theirs = read_image(path), read_image(written)
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-4)
    assert np.unique(ours.array).tolist() == ([0, 4, 9] if options is None else [0, 1])
    wrong = np.count_nonzero(ours.array != theirs.array)
    assert wrong <= (0.002 * ours.array.size if spacing else 0)


@pytest.fixture
def inference_of(tiny_dataset, tmp_path, home):
    """Return an entry of the program of a bundle, for an image with this slice axis and voxel size."""

    def parse(entry, axis, spacing, dims, **more):
        model = threshold.write_model(tmp_path / "model", 1.5, dims=dims, **more)
        words = {"data": tiny_dataset, "home": home, "model": str(model)}
        made = export("bundle", **words, out=tmp_path / "bundle")
        config = json.loads((made.path / "configs" / "inference.json").read_text())
        resamples = [one for one in config["preprocessing"]["transforms"] if one["_target_"] == "Spacingd"]
        config |= {"slice_axis": axis, "spacing": spacing, "pixdim": resamples and resamples[0]["pixdim"]}
        return ConfigParser(config).get_parsed_content(entry), load_trained_model(model).plan

    return parse


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("dims", "mirror_axes"), [(2, [0]), (2, [0, 1, 2]), (3, [0]), (3, [0, 2])])
def test_a_bundle_mirrors_the_axes_that_prediction_mirrors(axis, dims, mirror_axes, inference_of):
    more = {"mirror_axes": mirror_axes, "options": {"mirror": True}}
    flips, plan = inference_of("flips", axis, [1.0] * 3, dims, **more)
    assert flips == mirrored(PreprocessedVolume(torch.zeros(1, 1, 1, 1), None, np.eye(4), axis), plan)


@pytest.mark.parametrize(
    ("dims", "given", "spacing", "expected"),
    [
        (2, {"common_mm": [1.0] * 3}, [3.0, 1.5, 1.5], [-1.0, 1.0, 1.0]),
        (2, {"common_mm": [1.0] * 3}, [3.0, 1.04, 0.96], [-1.0, -1.0, -1.0]),
        (2, {"spacing_mm": [1.0] * 3}, [3.0, 1.04, 0.96], [-1.0, 1.0, 1.0]),
        (3, {"common_mm": [1.0, 1.0, 2.0]}, [1.0, 1.0, 2.5], [1.0, 1.0, 2.0]),
        (3, {"common_mm": [1.0, 1.0, 2.0]}, [1.0, 1.0, 2.05], [-1.0, -1.0, -1.0]),
    ],
)
def test_a_bundle_resamples_the_images_that_prediction_resamples(
    dims, given, spacing, expected, inference_of
):
    axis = int(np.argmax(spacing))
    assert inference_of("pixdim", axis, spacing, dims, **given)[0] == expected


def test_modalities_that_are_normalised_differently_are_refused(tiny_dataset, tmp_path, home):
    model = threshold.write_model(tmp_path / "model", 1.5, modalities=["MR", "PT"], normalisation={})
    with pytest.raises(UsageError, match="trained on MR, PT, normalised differently"):
        export("bundle", data=tiny_dataset, home=home, model=str(model), out=tmp_path / "bundle")


@pytest.mark.parametrize(
    ("dims", "given", "said"),
    [
        (2, {"common_mm": [0.8] * 3}, "Images whose voxels differ from 0.8 × 0.8 mm are resampled to them"),
        (2, {}, "Images are not resampled"),
    ],
)
def test_the_readme_says_whether_images_are_resampled(dims, given, said, tiny_dataset, tmp_path, home):
    model = threshold.write_model(tmp_path / "model", 1.5, dims=dims, **given)
    words = {"data": tiny_dataset, "home": home, "model": str(model)}
    made = export("bundle", **words, out=tmp_path / "bundle")
    assert said in (made.path / "docs" / "README.md").read_text()


@pytest.mark.parametrize(("learnt", "ct"), [(["CT"], True), (["MR"], False)])
def test_a_bundle_normalises_as_the_model_learnt(learnt, ct, tiny_dataset, tmp_path, home):
    model = threshold.write_model(tmp_path / "model", 1.5)
    described = model.with_suffix(".json")
    told = json.loads(described.read_text())
    described.write_text(json.dumps({**told, "modalities": learnt}))
    words = {"data": tiny_dataset, "home": home, "model": str(model)}  # whose cases are MR
    made = export("bundle", **words, out=tmp_path / "bundle")
    text = (made.path / "configs" / "inference.json").read_text()
    assert ("ScaleIntensityRanged" in text) is ct
    described.write_text(json.dumps({**told, "modalities": ["CT", "MR"]}))
    with pytest.raises(UsageError, match="trained on CT, MR, normalised differently"):
        export("bundle", **words, out=tmp_path / "other")


def test_a_bundle_keeps_largest_components_and_other_rules_are_named(tiny_dataset, tmp_path, home):
    lines = []
    words = {"data": tiny_dataset, "home": home, "log": lines.append}
    for name, rule in (("one", {"largest_component": 1.0}), ("two", {"min_ml": 2.0})):
        chosen = {"postprocessing": {"ball": rule}}
        model = threshold.write_model(tmp_path / f"{name}-model", 1.5, chosen=chosen)
        made = export("bundle", **words, model=str(model), out=tmp_path / name)
        text = (made.path / "configs" / "inference.json").read_text()
        assert ("KeepLargestConnectedComponentd" in text) is (name == "one")
    assert [line for line in lines if "does not contain the postprocessing of ball" in line] == lines[-1:]
