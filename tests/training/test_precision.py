"""Tests of precision settings."""

import pytest
import torch

from medmim.training.precision import _precision, autocast, precision_for, precision_name


@pytest.mark.parametrize(("setting", "word"), [("fp32", "32-true"), ("bf16", "bf16-mixed")])
def test_the_precision_setting_is_translated_for_lightning(setting, word):
    assert precision_for(setting) == word
    assert precision_name(setting) == setting
    assert autocast(setting, torch.device("cpu"))._enabled == (setting == "bf16")


@pytest.mark.parametrize(
    ("setting", "gpu", "bf16", "word"),
    [
        ("auto", True, True, "bf16-mixed"),
        ("auto", True, False, "16-mixed"),
        ("auto", False, True, "bf16-mixed"),
        ("auto", False, False, "32-true"),
        ("fp16", True, True, "16-mixed"),
        ("fp16", False, True, "32-true"),
        ("bf16", False, False, "bf16-mixed"),
        ("fp32", True, True, "32-true"),
    ],
)
def test_precision_depends_on_setting_and_device(setting, gpu, bf16, word):
    assert _precision(setting, gpu=gpu, bf16=bf16) == word
