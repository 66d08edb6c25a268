import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import threshold
import tiny
import torch
from click.testing import CliRunner

from medmim.cli import main
from medmim.config.runs import FinetuneSettings
from medmim.data.dataset.manifest import read_dataset
from medmim.data.formats.nifti import read_image
from medmim.errors import RunError, UsageError
from medmim.stages.export.run import LARGEST_DIFFERENCE, export
from medmim.stages.finetune.run import finetune
from medmim.stages.predict.run import predict
from medmim.training.tasks.trained_model import load_trained_encoder
from medmim.training.weights import load_weights


def quiet(line):
    """Take a line for the user."""


def tuned(task, dims, data, home, **words):
    settings = {**tiny.TINY, "data": data, "task": task, "dims": dims, "steps": 1, "num_evaluations": 1}
    made = finetune(FinetuneSettings(**{**settings, **words}, init="scratch"), home=home, log=quiet)
    return str(made.checkpoint)


def test_the_encoder_of_a_pretraining_run_is_exported(study, tmp_path):
    words = {"data": study.data, "home": study.home, "model": study.pretrained.run_id[:12]}
    made = export("safetensors", **words, out=tmp_path / "encoder.safetensors")
    assert made.difference == 0
    kept, described = load_weights(made.path)
    assert described["kind"] == "encoder"
    whole, _ = load_weights(study.pretrained.checkpoint)
    assert kept.keys() == {name for name in whole if name.startswith("encoder.")}
    assert all(torch.equal(value, whole[name]) for name, value in kept.items())
    with pytest.raises(RunError, match=r"or a fine-tuning run, got a prefix that matches 0 runs"):
        export("onnx", **words, out=tmp_path / "model.onnx")


def test_the_script_of_the_documentation_loads_an_encoder_without_medmim(study, tmp_path, monkeypatch):
    words = {"data": study.data, "home": study.home, "model": study.pretrained.run_id}
    export("safetensors", **words, out=tmp_path / "encoder.safetensors")
    page = (Path(__file__).parents[3] / "docs" / "prediction.md").read_text()
    [script] = re.findall(r"```python\n(import json\n.*?)```", page, flags=re.DOTALL)
    assert "medmim" not in script
    monkeypatch.chdir(tmp_path)
    made = {}
    exec(script, made)
    images = torch.randn(2, 1, 16, 16, 16)
    ours = load_trained_encoder(study.pretrained.checkpoint).encoder
    with torch.no_grad():
        torch.testing.assert_close(made["encoder"].eval()(images), ours(images)[-1], rtol=0, atol=0)


def test_an_exported_encoder_starts_another_run(tiny_dataset, tmp_path, home):
    model = tuned("segment", 3, tiny_dataset, home)
    made = export(
        "safetensors", data=tiny_dataset, home=home, model=model, out=tmp_path / "encoder.safetensors"
    )
    words = {**tiny.TINY, "data": tiny_dataset, "steps": 1, "num_evaluations": 1, "init": str(made.path)}
    said = []
    finetune(FinetuneSettings(**words), home=home, log=said.append)
    assert any(line.startswith("100.0% of the encoder") for line in said)


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


def test_what_differs_is_not_written(tiny_dataset, tmp_path, home, monkeypatch):
    from medmim.stages.export import run as stage

    model = threshold.write_model(tmp_path / "model", 1.5)
    real = stage._FORMATS["bundle"]
    monkeypatch.setitem(stage._FORMATS, "bundle", lambda *words: (real(*words)[0], 0.1))
    with pytest.raises(RunError, match=r"differs from PyTorch by 1\.0e-01 .* nothing was written"):
        export("bundle", data=tiny_dataset, home=home, model=str(model), out=tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_what_is_there_is_kept(tiny_dataset, tmp_path, home):
    with pytest.raises(UsageError, match="exists: expected a new path"):
        export("datalist", data=tiny_dataset, home=home, out=tmp_path)


def test_a_classifier_is_no_bundle(tiny_dataset, tmp_path, home):
    model = tuned("classify", 2, tiny_dataset, home)
    with pytest.raises(UsageError, match="expected a segmenter of patches"):
        export("bundle", data=tiny_dataset, home=home, model=model, out=tmp_path / "bundle")


def test_the_command_wants_a_format(tiny_dataset):
    result = CliRunner().invoke(main, ["export", "--data", str(tiny_dataset)])
    assert result.exit_code == 2
    assert "expected bundle, onnx, safetensors, nnunet or datalist" in result.stderr


def test_two_files_never_share_a_name_nor_replace_another(tiny_dataset, tmp_path, home):
    words = {"data": tiny_dataset, "home": home, "model": str(threshold.write_model(tmp_path / "model", 1.5))}
    with pytest.raises(UsageError, match="would have the same name"):
        export("onnx", **words, out=tmp_path / "model.json")
    (tmp_path / "mine.json").write_text("mine")
    with pytest.raises(UsageError, match=r"mine\.json' exists"):
        export("onnx", **words, out=tmp_path / "mine.onnx")
    assert (tmp_path / "mine.json").read_text() == "mine"
    with pytest.raises(UsageError, match="did you mean 'onnx'"):
        export("onxn", **words, out=tmp_path / "model.onnx")


@pytest.mark.parametrize("form", ["bundle", "onnx", "datalist"])
def test_a_place_that_cannot_be_written_is_named(form, tiny_dataset, tmp_path, home):
    model = threshold.write_model(tmp_path / "model", 1.5)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"^cannot write '.*free space and write permission"):
        export(form, data=tiny_dataset, home=home, model=str(model), out=tmp_path / "file" / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "model"]


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
