"""MLflow's own UI on a study, in a headless Chromium: its runs, sorted by score, two arms compared, the page."""

import os
import signal
import subprocess
import sys

import pytest
import tiny
from browser import CHROMIUM, Browser
from test_ui import free_port, wait_for

from medmim.stages.job import run_here
from medmim.stages.study import study
from medmim.stages.study_engines import Here
from medmim.study import StudySettings
from medmim.tracking.store import Store

SHARED = {**tiny.TINY, "steps": 1, "evaluations": 1}


@pytest.fixture(scope="module")
def home(new_home, tmp_path_factory):
    """A study of two masks at two ratios, two seeds each, and the control."""
    data = tiny.make_dataset(tmp_path_factory.mktemp("sources") / "scans", patients=30, seed=5)
    words = {"name": "shown", "data": data, "masks": ["random", "mesh"], "ratios": [0.5, 0.7], "seeds": [0, 1]}
    settings = StudySettings.model_validate({**words, "pretrain": SHARED, "finetune": SHARED})
    folder = new_home()
    study(settings, home=folder, engine=Here(run_here), timer=lambda task: 1.0, say=str)
    return folder


@pytest.fixture(scope="module")
def address(home):
    """Where `medmim ui` serves the study."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "medmim", "ui", "--port", str(port)],
        env={**os.environ, "MEDMIM_HOME": str(home)},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGINT)
        server.wait()
