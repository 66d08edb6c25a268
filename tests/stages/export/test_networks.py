"""Fine-tuned networks as ONNX."""

import importlib.util
import json

import numpy as np
import onnxruntime
import pytest
import threshold
import tiny

from medmim.config.runs import FinetuneSettings
from medmim.errors import RunError
from medmim.stages.export.run import LARGEST_DIFFERENCE, export
from medmim.stages.finetune.run import finetune


def quiet(line):
    """Take a line for the user."""


def tuned(task, dims, data, home, **words):
    settings = {**tiny.TINY, "data": data, "task": task, "dims": dims, "steps": 1, "num_evaluations": 1}
    made = finetune(FinetuneSettings(**{**settings, **words}, init="scratch"), home=home, log=quiet)
    return str(made.checkpoint)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("task", ["segment", "classify", "detect"])
def test_onnx_computes_what_pytorch_computes(task, dims, tiny_dataset, tmp_path, home):
    model = tuned(task, dims, tiny_dataset, home)
    words = {"data": tiny_dataset, "home": home, "model": model}
    made = export("onnx", **words, out=tmp_path / "model.onnx")
    assert made.difference <= LARGEST_DIFFERENCE
    session = onnxruntime.InferenceSession(str(made.path), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).normal(size=(5, 1, *[16] * dims)).astype(np.float32)
    assert all(len(one) == 5 for one in session.run(None, {"images": images}))  # any batch
    told = json.loads(made.path.with_suffix(".json").read_text())
    assert told["kind"] == task


def test_a_missing_package_is_named(tiny_dataset, tmp_path, home, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    model = threshold.write_model(tmp_path / "model", 1.5)
    with pytest.raises(RunError, match=r"needs onnx and onnxruntime: pip install 'medmim\[onnx\]'"):
        export("onnx", data=tiny_dataset, home=home, model=str(model), out=tmp_path / "model.onnx")
