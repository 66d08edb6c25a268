"""MLflow's own UI on a study, in headless Chromium: table, charts, page of a run, comparison and report."""

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
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium or Chrome is installed"),
]
SHARED = {**tiny.TINY, "steps": 2, "num_evaluations": 2}


@pytest.fixture(scope="module")
def home(new_home, tmp_path_factory):
    """A study of two masks, two seeds each, and the control."""
    data = tiny.make_dataset(tmp_path_factory.mktemp("sources") / "scans", patients=30, seed=5)
    grid = {"masks": ["random", "mesh"], "ratios": [0.7], "seeds": [0, 1]}
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


visible_columns = """(() => {
  const edge = document.querySelector("[role=treegrid],[role=grid]").getBoundingClientRect().right;
  return [...document.querySelectorAll("[role=columnheader][col-id]")]
    .filter(one => one.getBoundingClientRect().left + 50 <= edge)
    .map(one => one.innerText.trim());
})()"""


def views(home, address):
    """The addresses that `medmim ui` prints for the study."""
    place = urlsplit(address)
    return dict(pages(home, port=place.port, token=parse_qs(place.query)["token"][0]))


def test_the_table_opens_with_the_columns_of_arms_sorted_by_score(page, home, address):
    page.open(views(home, address)["shown, table"])
    page.wait(f"{names_in_order}.length == 3 && {holds('score/mean')}")
    page.picture("table")
    columns = {"mask", "ratio", "score/mean", "score/lo", "score/hi", "score/n_seeds", "cost/minutes"}
    assert columns | {"Run Name"} <= set(page.value(visible_columns))
    client = Store(home).client
    arms = client.search_runs(["1"], "tags.role = 'arm'", order_by=["metrics.`score/mean` DESC"])
    assert page.value(names_in_order) == [arm.info.run_name for arm in arms]


def test_the_charts_open_with_scores_by_arm_then_validation_curves(page, home, address):
    page.open(views(home, address)["shown, charts"])
    page.wait(f"{holds('score by arm')} && {holds('val/dice')} && !!document.querySelector('.barlayer')")
    page.picture("charts")
    text = page.value("document.body.innerText")
    titles = ("score by arm", "score/mean", "validation during training", "val/dice", "train")
    places = [text.index(f"\n{title}\n") for title in titles]
    assert places == sorted(places)


def test_the_page_of_a_training_starts_with_a_description_and_a_picture(page, home, address):
    [run] = Store(home).runs(role="cell", limit=1)
    page.open(f"{address}#/experiments/1/runs/{run.info.run_id}")
    picture = "[...document.images].find(one => one.src.includes('get-artifact') && one.naturalWidth)"
    page.wait(f"!!{picture} && {holds('Metrics (')}")
    page.picture("run")
    text = page.value("document.body.innerText")
    assert text.index("segment ← ") < text.index("test patient") < text.index("Metrics (")
    assert page.value(f"{picture}.getBoundingClientRect().top") < 300


def test_arms_are_sorted_and_compared_and_the_page_is_shown(page, home, address):
    table = views(home, address)["shown, table"]
    page.open(table.partition("&viewStateShareKey")[0])
    page.wait(f"{names_in_order}.join() === 'shown'")  # its arms are folded below it
    assert page.value(holds("14 matching runs"))

    page.click("button", "Sort: ")
    page.write("score/mean")
    page.click("[role=menuitemcheckbox]", "score/mean")
    client = Store(home).client
    arms = client.search_runs(["1"], "tags.role = 'arm'", order_by=["metrics.`score/mean` DESC"])
    best = arms[0].info.run_name
    page.wait(f"{names_in_order}.length == 14 && {names_in_order}[0] === {best!r}")
    shown = page.value(names_in_order)
    assert set(shown[:3]) == {arm.info.run_name for arm in arms}
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
    assert "Findings" in report
    assert all(arm.info.run_name in report for arm in arms)


def holds(text):
    return f"document.body && document.body.innerText.includes({text!r})"
