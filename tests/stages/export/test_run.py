import json
import os
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import threshold
import tiny
from click.testing import CliRunner
from monai.data.decathlon_datalist import load_decathlon_datalist

from medmim.cli import main
from medmim.config.runs import FinetuneSettings
from medmim.data.dataset.manifest import read_dataset
from medmim.data.formats.nifti import read_image
from medmim.errors import RunError, UsageError
from medmim.stages.export.run import LARGEST_DIFFERENCE, export
from medmim.stages.finetune.run import finetune
from medmim.stages.predict.run import predict
from medmim.training.weights import load_weights

TASKS = ["segment", "classify", "detect"]


def quiet(line):
    """Take a line for the user."""


def tuned(task, dims, data, home, **words):
    settings = {**tiny.TINY, "data": data, "task": task, "dims": dims, "steps": 1, "num_evaluations": 1}
    made = finetune(FinetuneSettings(**{**settings, **words}, init="scratch"), home=home, log=quiet)
    return str(made.checkpoint)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("task", TASKS)
def test_onnx_and_encoder_compute_what_pytorch_computes(task, dims, tiny_dataset, tmp_path, home):
    model = tuned(task, dims, tiny_dataset, home)
    words = {"data": tiny_dataset, "home": home, "model": model}
    made = export("onnx", **words, out=tmp_path / "model.onnx")
    assert made.difference <= LARGEST_DIFFERENCE
    session = onnxruntime.InferenceSession(str(made.path), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).normal(size=(5, 1, *[16] * dims)).astype(np.float32)
    assert all(len(one) == 5 for one in session.run(None, {"images": images}))  # any batch
    told = json.loads(made.path.with_suffix(".json").read_text())
    assert told["kind"] == task
    made = export("safetensors", **words, out=tmp_path / "encoder.safetensors")
    assert made.difference == 0
    kept, described = load_weights(made.path)
    assert all(name.startswith("encoder.") for name in kept)
    assert described["kind"] == "encoder"


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
    [(3, None, {}), (3, [1.3] * 3, {"mirror": True}), (2, None, {"mirror": True})],
    ids=["3d", "3d resampled mirrored", "2d mirrored"],
)
def test_monai_runs_the_bundle_without_medmim(dims, spacing, options, varied_dataset, tmp_path, home):
    model = threshold.write_model(tmp_path / "model", 1.5, dims=dims, spacing_mm=spacing, options=options)
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
    assert ours.array.any()
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


def test_a_missing_package_is_named(tiny_dataset, tmp_path, home, monkeypatch):
    from medmim.stages.export import run as stage

    monkeypatch.setattr(stage.importlib.util, "find_spec", lambda name: None)
    model = threshold.write_model(tmp_path / "model", 1.5)
    with pytest.raises(RunError, match=r"needs onnx and onnxruntime: pip install 'medmim\[onnx\]'"):
        export("onnx", data=tiny_dataset, home=home, model=str(model), out=tmp_path / "model.onnx")


def test_monai_reads_the_datalist(tiny_dataset, tmp_path):
    path = tmp_path / "list.json"
    words = ["export", "--datalist", "--data", str(tiny_dataset), "--out", str(path), "--json"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["format"] == "datalist"
    entries = load_decathlon_datalist(str(path), True, "training", base_dir=str(tiny_dataset))
    train = read_dataset(tiny_dataset).in_split("train")
    assert [one["image"] for one in entries] == [str(tiny_dataset / volume.image) for volume in train]
    assert all(os.path.isfile(one["label"]) for one in entries)  # noqa: PTH113


def test_the_command_wants_a_format():
    result = CliRunner().invoke(main, ["export"])
    assert result.exit_code == 2
    assert "expected bundle, onnx, safetensors or datalist" in result.stderr


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
