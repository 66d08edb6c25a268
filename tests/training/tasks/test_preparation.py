"""Tests of the preparation of a task from the training data."""

import numpy as np
import pytest
import tiny

from medmim.config.runs import FinetuneSettings
from medmim.data.dataset.manifest import Dataset, DatasetInfo
from medmim.data.loading.preprocessing_plan import plan_of_model
from medmim.errors import UsageError
from medmim.training.tasks.preparation import prepare_task
from medmim.training.tasks.segmentation import Segmentation


def two_balls(root, number):
    """Write two mirrored cubes with codes 17 and 53, and a region without a label with code 255."""
    label = np.zeros((20, 16, 16), np.uint16)
    label[3:6, 4 + number : 7 + number, 4:7] = 17
    label[14:17, 4 + number : 7 + number, 4:7] = 53
    label[:, :, 14:] = 255
    image = np.random.default_rng(number).normal(0, 1, label.shape).astype(np.float32)
    return tiny.write_volume(root, f"p{number}", image, np.eye(4), label=label)


def prepared(root, **settings):
    rows = [two_balls(root, number) for number in range(3)]
    dataset = Dataset(root, DatasetInfo(name="d", label_names={17: "a", 53: "b"}), tuple(rows))
    lines = []
    plan, names = prepare_task(
        Segmentation(),
        FinetuneSettings(data=root, size=(16,), **settings),
        dataset,
        rows,
        dims=3,
        multiple=(4, 4, 4),
        home=None,
        log=lines.append,
    )
    return plan, names, lines


def test_the_plan_has_codes_ignored_value_and_mirroring(tmp_path):
    plan, names, lines = prepared(tmp_path, ignore_label=255)
    assert names == {1: "a", 2: "b"}
    assert (plan.label_codes, plan.ignore_label) == ((17, 53), 255)
    assert plan.mirror_axes == ()
    assert any("classes 17 and 53 are a left–right pair by position and size" in line for line in lines)


def test_merged_classes_are_trained_as_one_and_other_values_are_named(tmp_path):
    rows = [two_balls(tmp_path, number) for number in range(3)]
    dataset = Dataset(tmp_path, DatasetInfo(name="d", label_names={17: "a", 53: "b"}), tuple(rows))
    settings = FinetuneSettings(data=tmp_path, size=(16,), labels={"both": [53, 17]})
    task, lines = Segmentation(**settings.options_of_task), []
    options = {"dims": 3, "multiple": (4, 4, 4), "home": None, "log": lines.append}
    plan, names = prepare_task(task, settings, dataset, rows, **options)
    assert names == {1: "both"}
    assert (plan.label_codes, plan.label_classes) == ((53,), ((53, 1), (17, 1)))
    assert "warning: label values 255 are background: `labels` leaves them out" in lines
    assert plan_of_model({**plan.as_json(), "spatial_dims": 3}) == plan
    with pytest.raises(UsageError, match="no label has the value 9; expected 17, 53, 255"):
        prepare_task(Segmentation(labels={"both": [9]}), settings, dataset, rows, **options)


def test_the_user_may_choose_axes_and_normalisation(tmp_path):
    plan, _, _ = prepared(tmp_path, mirror_axes=("left-right",), normalisation="volume")
    assert plan.mirror_axes == (0,)
    assert plan.normalisation.rule_for("MR").method == "volume"
    assert plan.label_codes == (17, 53, 255)
