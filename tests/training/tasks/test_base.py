"""What tasks inherit: defaults, and the aggregate of resampled patients."""

from pathlib import Path

import numpy as np
import pytest

from medmim.data.loading.preprocess import VolumeLoader
from medmim.data.loading.preprocessing_plan import PreprocessingPlan
from medmim.training.tasks.base import EvaluationContext, Task
from medmim.training.tasks.regression import Regression

ROWS = [
    {"metric": "r2", "case": f"c{n}", "subject": who, "value": value, "predicted": found}
    for n, (who, value, found) in enumerate([("b", 1.0, 2.0), ("a", 3.0, 3.5), ("a", 5.0, 4.0)])
]


@pytest.fixture
def context():
    volumes = VolumeLoader(Path(), PreprocessingPlan(2, (16, 16)), cache_gb=0.1)  # not read
    return EvaluationContext(volumes, {1: "age"}, "fp32", {})


def test_the_context_has_the_plan_of_its_volumes(context):
    assert context.plan is context.volumes.plan


def test_resampled_patients_bring_all_of_their_cases(context):
    task = Regression()
    statistic = Task.weighted_statistic(task, ROWS, context)
    assert statistic(np.array([1.0, 1.0])) == pytest.approx(task.aggregate(ROWS, context))
    twice = [{**row, "subject": f"{row['subject']}{copy}"} for copy in range(2) for row in ROWS[1:]]
    assert statistic(np.array([2.0, 0.0])) == pytest.approx(task.aggregate(twice, context))


def test_a_task_chooses_and_draws_nothing_by_default(context):
    task = Regression()
    assert Task.tune(task, ROWS, context) == {}
    assert Task.unscored(task, (), ()) == []
    assert Task.score_figure(task, ROWS, context, title="t") is None
