"""Views of MLflow's UI: the columns, filter and order with which the tables of runs and of studies open.

MLflow reads a view from a tag of the experiment, if the address names the view.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from mlflow import MlflowClient

_KEY = "medmim"
_TAG = f"mlflow.sharedViewState.{_KEY}"
_ARM = ("params.`method`", "params.`mask`", "params.`ratio`")
_SCORE = ("metrics.`score/mean`", "metrics.`score/lo`", "metrics.`score/hi`")
_COSTS = ("metrics.`score/n_seeds`", "metrics.`cost/minutes`", "metrics.`cost/peak_memory_gb`")
_RUN = ("tags.`arm`", "tags.`task`", "tags.`mask`", "tags.`ratio_requested`", "tags.`seed`")
_TESTS = [
    f"metrics.`test_{name}{end}`"
    for name in ("dice", "macro_f1", "macro_auroc", "quadratic_kappa", "ap50", "r2")
    for end in ("", "_lo", "_hi")
]


def _view(columns: Sequence[str], *, order_by: str, only: str = "") -> str:
    """Return a view as MLflow stores it; its order is descending."""
    state = {"selectedColumns": list(columns), "orderByKey": order_by, "orderByAsc": False}
    return json.dumps({**state, "searchFilter": only})


EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",  # the UI opens the table of runs
    _TAG: _view([*_RUN, *_TESTS, "metrics.`last/minutes`"], order_by="attributes.start_time"),
}


def show_arms(client: MlflowClient, experiment_id: str) -> None:
    """Let the table of a study open with its arms, sorted by score.

    Args:
        client: of the store.
        experiment_id: of the study.
    """
    view = _view([*_ARM, *_SCORE, *_COSTS], order_by=_SCORE[0], only="tags.role = 'arm'")
    client.set_experiment_tag(experiment_id, _TAG, view)


def address_words(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the query of the address that opens the table of an experiment with its view.

    The first word is needed because MLflow opens experiments on a page for chat agents by default.
    """
    return {"workflowType": "machine_learning", **({"viewStateShareKey": _KEY} if _TAG in tags else {})}
