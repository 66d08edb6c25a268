"""Segmenters as MONAI bundles, which give the same labels without medmim."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import threshold

from medmim.data.dataset.manifest import read_dataset
from medmim.data.formats.nifti import read_image
from medmim.errors import UsageError
from medmim.stages.export.run import LARGEST_DIFFERENCE, export
from medmim.stages.predict.run import predict


@pytest.mark.parametrize(
    ("dims", "spacing", "options"),
    [
        pytest.param(3, None, {}, marks=pytest.mark.slow),
        (3, [1.3] * 3, {"mirror": True}),
        (2, None, {"mirror": True}),
        (3, None, None),
    ],
    ids=["3d", "3d resampled mirrored", "2d mirrored", "3d regions"],
)
def test_monai_runs_the_bundle_without_medmim(dims, spacing, options, varied_dataset, tmp_path, home):
    nested = options is None
    level, more = ((0.5, 1.5), threshold.NESTED) if nested else (1.5, {"options": options})
    model = threshold.write_model(tmp_path / "model", level, dims=dims, spacing_mm=spacing, **more)
    made = export("bundle", data=varied_dataset, home=home, model=str(model), out=tmp_path / "bundle")
    assert made.difference <= LARGEST_DIFFERENCE
    predictions = predict(varied_dataset, tmp_path / "out", home=home, model=str(model))
    volume = read_dataset(varied_dataset).volumes[2]
    words = ["--config_file", "configs/inference.json", "--bundle_root", "."]
    words += ["--image", str(varied_dataset / volume.image), "--output_dir", str(tmp_path / "eval")]
    blocked = "import sys\nsys.modules['medmim'] = None\nimport runpy\n"
    blocked += "sys.argv[0] = 'monai.bundle'\nrunpy.run_module('monai.bundle', run_name='__main__')"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ran = subprocess.run(
        [sys.executable, "-c", blocked, "run", *words],
        cwd=made.path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    [written] = (tmp_path / "eval").rglob("*.nii.gz")
    ours, theirs = read_image(predictions.out / "segmentations" / f"{volume.id}.nii.gz"), read_image(written)
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-4)
    assert np.unique(ours.array).tolist() == ([0, 4, 9] if nested else [0, 1])
    wrong = np.count_nonzero(ours.array != theirs.array)
    assert wrong <= (0 if spacing is None else 0.002 * ours.array.size)


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
    with pytest.raises(UsageError, match="trained on CT and on other modalities"):
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
