"""Tests of the preparation of a task from the training data."""

import numpy as np
import tiny

from medmim.config.runs import FinetuneSettings
from medmim.data.dataset.manifest import Dataset, DatasetInfo
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


def test_the_user_may_choose_axes_and_normalisation(tmp_path):
    plan, _, _ = prepared(tmp_path, mirror_axes=("left-right",), normalisation="volume")
    assert plan.mirror_axes == (0,)
    assert plan.normalisation.rule_for("MR").method == "volume"
    assert plan.label_codes == (17, 53, 255)
