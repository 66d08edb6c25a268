"""A study on a Ray cluster of two nodes, one of which dies while it trains: the table of a local run."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import tiny

from medmim.config.study import StudySettings
from medmim.data.sandbox.ray_cluster import connect_ray
from medmim.stages.study.engines import LocalEngine, RayStudyEngine, StudyEngine
from medmim.stages.study.runner import StudyResult, study
from medmim.stages.study.training_process import run_here
from medmim.tracking.mlflow_store import Store

SHARED = {**tiny.TINY, "steps": 60, "num_evaluations": 1, "checkpoint_every_steps": 10}


def run(data: Path, home: Path, engine: StudyEngine) -> StudyResult:
    pretrain = {**SHARED, "method_options": {"decoder_width": 8}}
    words = {"name": "spread", "data": data, "masks": ["mesh"], "ratios": [0.5, 0.7]}
    settings = StudySettings.model_validate({**words, "pretrain": pretrain, "finetune": SHARED})
    return study(settings, home=home, engine=engine, timer=lambda task: 1.0, log=print)


def kill_a_node_at_work(made: Any, nodes: list[Any], home: Path) -> None:
    """Wait until both nodes train, then take one away without a word."""
    store = Store(home)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        working = [
            run for run in store.runs(study="spread") if run.data.tags["role"] in ("pretraining", "cell")
        ]
        states = [any(store.checkpoints(run.info.run_id).glob("*")) for run in working]
        if sum(run.info.status == "RUNNING" for run in working) == 2 and all(states):
            made.remove_node(nodes.pop(), allow_graceful=False)
            return
        time.sleep(0.2)


def numbers(done: StudyResult) -> dict[str, Any]:
    assert done.compared is not None
    found = done.compared.findings.as_json()
    return {**found, "arms": [{**arm, "runs": []} for arm in found["arms"]]}


@pytest.mark.slow
def test_a_node_that_dies_changes_no_number(tmp_path: Path, new_home: Any, cluster: tuple[Any, list[Any]]):
    data = tiny.make_dataset(tmp_path / "data", patients=30, seed=5)
    made, nodes = cluster
    homes = new_home(), new_home()
    killer = threading.Thread(target=kill_a_node_at_work, args=(made, nodes, homes[0]))
    killer.start()
    with connect_ray(made.address) as ray:
        spread = run(data, homes[0], RayStudyEngine(ray))
    killer.join()
    assert len(nodes) == 1
    local = run(data, homes[1], LocalEngine(run_here))
    for found in (spread, local):
        assert found.failures == ()
        assert found.compared is not None
    store = Store(homes[0])
    assert len(store.runs(study="spread", role="cell")) == 3
    assert len(store.runs(study="spread", role="pretraining")) == 2
    assert numbers(spread) == numbers(local)
