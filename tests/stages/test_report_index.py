"""The page of reports links comparisons and draws the curves of runs."""

import json

from click.testing import CliRunner

from medmim.cli import main
from medmim.tracking.mlflow_store import Store


def test_the_page_shows_reports_runs_and_curves(home):
    recorder = Store(home).begin(experiment="e", name="n", tags={"stage": "pretrain", "arm": "spark <mesh>"})
    for step, loss in ((1, 3.0), (11, 1.0), (21, 2.0)):
        recorder.metrics({"train/loss": loss}, step=step)
    folder = home / "reports" / "quick"
    folder.mkdir(parents=True)
    (folder / "report.html").write_text("<p>")
    (folder / "findings.json").write_text(
        json.dumps({"verdicts": ["no evidence of a difference"], "arms": []})
    )
    for name, text in {
        "alone": json.dumps({"verdicts": [], "arms": [{"name": "one arm"}]}),
        "cut": '{"ar',
    }.items():
        (home / "reports" / name).mkdir()
        (home / "reports" / name / "report.html").write_text("<p>")
        (home / "reports" / name / "findings.json").write_text(text)
    done = CliRunner().invoke(main, ["report"])
    assert done.exit_code == 0, done.output
    page = (home / "reports" / "index.html").read_text(encoding="utf-8")
    assert '<a href="quick/report.html">quick</a>' in page
    assert "no evidence of a difference" in page
    assert "one arm" in page
    assert '<a href="cut/report.html">cut</a>' in page
    assert "spark &lt;mesh&gt;" in page
    assert 'points="15.2,18.0 167.6,102.0 320.0,60.0"' in page
