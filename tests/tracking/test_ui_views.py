"""MLflow's front end reads the views under the names that are written."""

import json
from pathlib import Path

import mlflow
import pytest

from medmim.tracking.mlflow_store import Store
from medmim.tracking.ui_views import EXPERIMENT_TAGS, address_words, show_arms

TAG = "mlflow.sharedViewState.medmim"
PAGES = Path(mlflow.__file__).parent / "server" / "js" / "build" / "static" / "js"


def test_the_table_of_a_study_opens_with_its_arms_sorted_by_score(new_home):
    store = Store(new_home())
    place = store.experiment("quick")
    show_arms(store.client, place)
    tags = store.client.get_experiment(place).tags
    view = json.loads(tags[TAG])
    assert view["selectedColumns"][:3] == ["params.`mask`", "params.`ratio`", "metrics.`score/mean`"]
    assert (view["searchFilter"], view["orderByKey"]) == ("tags.role = 'arm'", "metrics.`score/mean`")
    charts = json.loads(tags[f"{TAG}-charts"])["compareRunCharts"]
    assert [(one["type"], one["metricKey"]) for one in charts[:2]] == [
        ("BAR", "score/mean"), ("LINE", "val/dice")
    ]  # fmt: skip
    assert {key: words["viewStateShareKey"] for key, words in address_words(tags).items()} == {
        "table": "medmim",
        "charts": "medmim-charts",
    }
    assert address_words({}) == {"table": {"workflowType": "machine_learning"}}


def test_the_table_of_runs_opens_with_scores(new_home):
    store = Store(new_home())
    tags = store.client.get_experiment(store.experiment("mine")).tags
    assert {"tags.`arm`", "metrics.`test_dice_lo`"} <= set(json.loads(tags[TAG])["selectedColumns"])


@pytest.mark.skipif(not PAGES.is_dir(), reason="this MLflow has no front end")
def test_the_front_end_knows_every_word_of_a_view():
    text = "".join(path.read_text(encoding="utf-8") for path in PAGES.glob("*.js"))
    words = [TAG.removesuffix("medmim"), *address_words(EXPERIMENT_TAGS)["charts"]]
    words += [*json.loads(EXPERIMENT_TAGS[f"{TAG}-charts"]), "SHOWALL", "metricSectionId"]
    assert [word for word in words if word not in text] == []
