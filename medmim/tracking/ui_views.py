"""Views of MLflow's UI: columns, filter and order with which its tables open, and the colors of arms.

MLflow reads a view from a tag of the experiment, if the address names the view.
"""

from __future__ import annotations

import colorsys
import hashlib
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
    """Let the table of a study open with its arms, sorted by score."""
    view = _view([*_ARM, *_SCORE, *_COSTS], order_by=_SCORE[0], only="tags.role = 'arm'")
    client.set_experiment_tag(experiment_id, _TAG, view)


def color_of(arm: str) -> str:
    """Return the color of an arm in the tables and charts of the UI: the same for all of its runs."""
    hue = hashlib.sha256(arm.encode()).digest()[0] / 256
    return "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hsv_to_rgb(hue, 0.75, 0.8))


def address_words(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the query of the address that opens the table of an experiment with its view.

    The first word is needed because MLflow opens experiments on a page for chat agents by default.
    """
    return {"workflowType": "machine_learning", **({"viewStateShareKey": _KEY} if _TAG in tags else {})}
