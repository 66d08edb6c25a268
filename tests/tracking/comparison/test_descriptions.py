import pytest
from recorded_runs import run

from medmim.tracking.comparison.arms import arms_of
from medmim.tracking.comparison.descriptions import described
from medmim.tracking.mlflow_store import Store

SETTINGS = {
    **{"method": "spark", "mask": "mesh", "mask_options": {}, "ratio": 0.5},
    **{"dims": 2, "size": [32, 32], "cell": [4, 4]},
}


@pytest.fixture
def store(new_home):
    return Store(new_home())


def recorded(store, arm, *, minutes, memory, pretraining=None, settings=None):
    recorder = store.begin(experiment="test", name=arm, tags={})
    recorder.metrics({"cost/minutes": minutes, "cost/peak_memory_gb": memory}, step=0)
    tags = {"pretraining_run": pretraining.run_id} if pretraining else {}
    made = run(arm, [0.5, 0.6], run_id=recorder.run_id, **tags)
    return type(made)(**{**vars(made), "pretraining": settings or {}})


def test_arms_get_columns_costs_and_statistics_of_their_mask(store):
    pretraining = store.begin(experiment="test", name="p", tags={})
    pretraining.metrics({"cost/minutes": 5.0, "cost/peak_memory_gb": 3.0}, step=0)
    runs = [
        recorded(store, "scratch", minutes=1.0, memory=1.0),
        recorded(
            store, "spark mesh 0.5", minutes=2.0, memory=1.0, pretraining=pretraining, settings=SETTINGS
        ),
    ]
    control, arm = described(store, arms_of(runs), runs)
    assert control.columns == {"method": "scratch", "mask": "–", "ratio": "–"}
    assert arm.columns == {"method": "spark", "mask": "mesh", "ratio": "0.5"}
    assert arm.costs == {"cost/minutes": 7.0, "cost/peak_memory_gb": 3.0}
    assert control.mask_statistics == {}
    assert arm.mask_statistics["card/realised_ratio"] == pytest.approx(0.5, abs=0.02)


def test_the_last_figure_of_a_run_is_shown(store):
    runs = [recorded(store, "scratch", minutes=1.0, memory=1.0)]
    assert described(store, arms_of(runs), runs)[0].panels == ()
    folder = store.checkpoints(runs[0].run_id)
    (folder / "panel.png").write_bytes(b"png")
    assert described(store, arms_of(runs), runs)[0].panels == (b"png",)
