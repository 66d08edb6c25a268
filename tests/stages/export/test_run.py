import re
from pathlib import Path

import pytest
import threshold
import tiny
import torch

from medmim.config.runs import FinetuneSettings
from medmim.errors import RunError, UsageError
from medmim.stages.export.run import export
from medmim.stages.finetune.run import finetune
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
    rule = {"method": "body", "percentiles": [0.5, 99.5], "body_above": 0.1}
    assert rule.items() <= described["intensity_rules"]["MR"].items()
    whole, _ = load_weights(study.pretrained.checkpoint)
    assert kept.keys() == {name for name in whole if name.startswith("encoder.")}
    assert all(torch.equal(value, whole[name]) for name, value in kept.items())
    with pytest.raises(RunError, match=r"or a run of `medmim finetune`, got run \w{8} of `medmim pretrain`"):
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
