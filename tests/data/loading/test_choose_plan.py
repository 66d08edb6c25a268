"""Normalisation and mirroring in the plan of a run."""

import numpy as np
import tiny

from medmim.config.runs import FinetuneSettings
from medmim.data.loading.choose_plan import choose_plan
from medmim.data.loading.fingerprint import fingerprint_of
from medmim.data.loading.preprocessing_plan import PreprocessingPlan, plan_of_model

PLAN = PreprocessingPlan(3, (16, 16, 16))


def found(root, *, modality="CT", value=50.0):
    image = np.random.default_rng(0).normal(value, 10, (8, 8, 8)).round().astype(np.float32)
    row = tiny.write_volume(root, "a", image, np.eye(4), modality=modality)
    return fingerprint_of(root, [row], home=None)


def test_choices_are_logged_with_their_reasons(tmp_path):
    plan, lines = choose_plan(PLAN, FinetuneSettings(), found(tmp_path), names=["left lung"], axes=(0,))
    assert lines[0].startswith("normalisation: CT dataset (clip ")
    assert lines[1] == "mirroring: none (left–right is off: class 'left lung' names a side)"
    assert plan.mirror_axes == ()
    assert plan.normalisation.rule_for("CT").method == "dataset"


def test_images_that_look_like_ct_are_reported(tmp_path):
    _, lines = choose_plan(
        PLAN, FinetuneSettings(), found(tmp_path, modality="OT", value=-500), names=[], axes=(0,)
    )
    assert lines[-1].startswith("warning: images without a modality look like CT in HU")


def test_the_plan_of_a_model_survives_its_description(tmp_path):
    plan, _ = choose_plan(PLAN, FinetuneSettings(window=(-100, 300)), found(tmp_path), names=[], axes=(0,))
    assert plan.normalisation.rule_for("CT").low == -100
    assert plan_of_model({"spatial_dims": 3, **plan.as_json()}) == plan


def test_models_of_earlier_versions_keep_their_preprocessing():
    plan = plan_of_model({"spatial_dims": 3, "size": [16, 16, 16], "spacing_mm": None, "view": "patch"})
    assert plan.normalisation.legacy
    assert plan.mirror_axes == (0,)
    assert plan.label_codes is None
