"""Views of MLflow's UI: columns, filter, order and charts with which it opens, and the colors of arms.

MLflow reads a view from a tag of the experiment, if the address names the view.
"""

from __future__ import annotations

import colorsys
import hashlib
import json
from collections.abc import Mapping, Sequence

from mlflow import MlflowClient

_KEY, _CHARTS_KEY = "medmim", "medmim-charts"
_PREFIX = "mlflow.sharedViewState."
_ARM = ("params.`mask`", "params.`ratio`")  # the name of the run is the arm
_SCORE = ("metrics.`score/mean`", "metrics.`score/lo`", "metrics.`score/hi`")
_COSTS = ("metrics.`score/n_seeds`", "metrics.`cost/minutes`")
_RUN = ("tags.`arm`", "tags.`task`", "tags.`mask`", "tags.`ratio_requested`", "tags.`seed`")
_METRICS = ("dice", "macro_f1", "macro_auroc", "quadratic_kappa", "ap50", "r2")  # one for each task
_TESTS = [f"metrics.`test_{name}{end}`" for name in _METRICS for end in ("", "_lo", "_hi")]


def _view(columns: Sequence[str], *, order_by: str, only: str = "", **more: object) -> str:
    """Return a view as MLflow stores it; its order is descending."""
    state = {"selectedColumns": list(columns), "orderByKey": order_by, "orderByAsc": False}
    return json.dumps({**state, "searchFilter": only, **more})


def _charts(only: str, order_by: str, bars: Sequence[str]) -> str:
    """Return a view with bars of scores, then validation curves; charts without values are hidden."""
    scores, curves = "scores", "curves"
    titles = {scores: "score by arm", curves: "validation during training"}
    kinds = [("BAR", key, scores) for key in bars]
    kinds += [("LINE", f"val/{name}", curves) for name in _METRICS]
    charts = [{"type": kind, "uuid": key, "metricKey": key, "metricSectionId": to} for kind, key, to in kinds]
    sections = [{"uuid": key, "name": title, "display": True} for key, title in titles.items()]
    more = {"compareRunCharts": charts, "compareRunSections": sections}
    more |= {"isAccordionReordered": True, "runsHiddenMode": "SHOWALL"}
    return _view(_RUN, order_by=order_by, only=only, **more)


EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",  # the UI opens the table of runs
    _PREFIX + _KEY: _view([*_RUN, *_TESTS, "metrics.`last/minutes`"], order_by="attributes.start_time"),
    _PREFIX + _CHARTS_KEY: _charts(
        "tags.stage = 'finetune'", "attributes.start_time", [f"test_{name}" for name in _METRICS]
    ),
}


def show_arms(client: MlflowClient, experiment_id: str) -> None:
    """Let table and charts of a study open with its arms, sorted by score."""
    table = _view([*_ARM, *_SCORE, *_COSTS], order_by=_SCORE[0], only="tags.role = 'arm'")
    charts = _charts("tags.role != 'pretraining' and tags.arm LIKE '%'", _SCORE[0], ["score/mean"])
    for key, view in ((_KEY, table), (_CHARTS_KEY, charts)):
        client.set_experiment_tag(experiment_id, _PREFIX + key, view)


def color_of(arm: str) -> str:
    """Return the color of an arm in the tables and charts of the UI: the same for all of its runs."""
    hue = hashlib.sha256(arm.encode()).digest()[0] / 256
    return "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hsv_to_rgb(hue, 0.75, 0.8))


def address_words(tags: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return the queries of the addresses that open the views of an experiment: `table`, and `charts`.

    The first word is needed because MLflow opens experiments on a page for chat agents by default.
    """
    first = {"workflowType": "machine_learning"}
    found = {"table": {**first, **({"viewStateShareKey": _KEY} if _PREFIX + _KEY in tags else {})}}
    if _PREFIX + _CHARTS_KEY in tags:
        found["charts"] = {**first, "compareRunsMode": "CHART", "viewStateShareKey": _CHARTS_KEY}
    return found
