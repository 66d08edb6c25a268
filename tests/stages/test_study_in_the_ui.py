"""MLflow's own UI on a study, in headless Chromium: arms sorted by score, two compared, the report shown."""

import os
import signal
import subprocess
import sys
import time
from urllib.parse import parse_qs, urlsplit

import pytest
import tiny
from browser import CHROMIUM, Browser
from local_server import free_port, wait_for

from medmim.config.study import StudySettings
from medmim.stages.study.engines import LocalEngine
from medmim.stages.study.runner import study
from medmim.stages.study.training_process import run_here
from medmim.stages.ui import pages
from medmim.tracking.mlflow_store import Store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="wants Chromium"),
]
SHARED = {**tiny.TINY, "steps": 1, "num_evaluations": 1}


@pytest.fixture(scope="module")
def home(new_home, tmp_path_factory):
    """A study of two masks at two ratios, two seeds each, and the control."""
    data = tiny.make_dataset(tmp_path_factory.mktemp("sources") / "scans", patients=30, seed=5)
    grid = {"masks": ["random", "mesh"], "ratios": [0.5, 0.7], "seeds": [0, 1]}
    words = {"name": "shown", "data": data, **grid, "pretrain": SHARED, "finetune": SHARED}
    settings = StudySettings.model_validate(words)
    folder = new_home()
    study(settings, home=folder, engine=LocalEngine(run_here), timer=lambda task: 1.0, log=str)
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
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server)
        yield server.stderr.readline().split()[0]
    finally:
        os.killpg(server.pid, signal.SIGINT)
        server.wait()


@pytest.fixture
def page(tmp_path):
    with Browser(tmp_path, size=(1900, 1000)) as browser:
        yield browser


names_in_order = """[...document.querySelectorAll("[role=row]:has(a[href*='/runs/'])")]
        .sort((one, two) => one.getAttribute("row-index") - two.getAttribute("row-index"))
        .map(row => row.querySelector("a[href*='/runs/']").innerText)"""


def test_arms_are_sorted_and_compared_and_the_page_is_shown(page, home, address):
    place = urlsplit(address)
    [(_, table)] = pages(home, port=place.port, token=parse_qs(place.query)["token"][0])
    page.open(table)
    page.wait(f"{names_in_order}.length == 5 && {holds('score/mean')} && {holds('mask')}")
    page.picture("arms")
    page.open(table.partition("&viewStateShareKey")[0])
    page.wait(f"{names_in_order}.join() === 'shown'")  # its arms are folded below it
    assert page.value(holds("24 matching runs"))

    page.click("button", "Sort: ")
    page.write("score/mean")
    page.click("[role=menuitemcheckbox]", "score/mean")
    client = Store(home).client
    arms = client.search_runs(["1"], "tags.role = 'arm'", order_by=["metrics.`score/mean` DESC"])
    best = arms[0].info.run_name
    page.wait(f"{names_in_order}.length == 24 && {names_in_order}[0] === {best!r}")
    shown = page.value(names_in_order)
    assert set(shown[:5]) == {arm.info.run_name for arm in arms}
    page.picture("sorted")

    for number in (0, 1):
        page.click(f"[role=row][row-index='{number}'] input[type=checkbox]")
    page.click("button,a", "Compare")
    page.wait(f"location.href.includes('compare-runs') && {holds('score/mean')}")
    page.wait(f"{holds(shown[0])} && {holds(shown[1])}")
    page.picture("compared")

    [study] = client.search_runs(["1"], "tags.role = 'study'")
    page.open(f"{address}#/experiments/1/runs/{study.info.run_id}/artifacts")
    for name in ("report", "report.html"):
        page.click(f"[data-testid=artifact-tree-node][artifact-name='{name}']")
        time.sleep(1)  # the folder opens with an animation
    page.wait("!!document.querySelector('iframe')")
    time.sleep(2)
    page.picture("report")
    report = page.value("fetch(document.querySelector('iframe').src).then(found => found.text())")
    assert "What it shows" in report
    assert all(arm.info.run_name in report for arm in arms)


def holds(text):
    return f"document.body && document.body.innerText.includes({text!r})"
