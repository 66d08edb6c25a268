import re
from dataclasses import replace

import pytest
from recorded_runs import rows, run, spread

from medmim.tracking.comparison.findings import find
from medmim.tracking.comparison.report import provenance, write_report

ODD = 'a <b>"&" $\\frac$'


def report(tmp_path, runs, **words):
    page = write_report(tmp_path / "reports", find(runs), runs, title="a & b", **words)
    return page, page.read_text(encoding="utf-8")


def test_the_page_has_sentences_figures_and_tables(tmp_path):
    runs = [run("scratch", spread(0.6)), run("spark mesh 0.7", spread(0.7))]
    page, text = report(tmp_path, runs, notes=["2 trials are not finished"])
    assert {path.name for path in page.parent.iterdir()} == {
        *("report.html", "scores.png", "differences.png", "patients.png"),
        *("arms.csv", "cases.csv", "contrasts.csv", "findings.json"),
    }
    assert find(runs).verdicts[0].replace("'", "&#39;") in text
    assert text.count("data:image/png;base64,") == 3
    assert "Note: 2 trials are not finished." in text
    assert "patients only" in text


def test_differences_of_settings_come_first(tmp_path):
    runs = [run("scratch", spread(0.6)), replace(run("a", spread(0.7)), settings={"lr": 0.1})]
    _, text = report(tmp_path, [replace(runs[0], settings={"lr": 0.2}), runs[1]])
    assert text.index("fine-tuning lr: 0.1 (a); 0.2 (scratch)") < text.index("<h2>Findings</h2>")


def test_the_page_loads_nothing_from_elsewhere(tmp_path):
    _, text = report(tmp_path, [run("scratch", spread(0.6)), run("a", spread(0.7))])
    assert not re.search(r"https?:|//cdn|<script|<link|@import|url\(", text)
    assert set(re.findall(r'(?:src|href)="(.{5})', text)) == {"data:"}


def test_names_are_escaped(tmp_path):
    _, text = report(tmp_path, [run("scratch", spread(0.6)), run(ODD, rows(spread(0.7), label=ODD))])
    assert "<b>" not in text
    assert "a &lt;b&gt;&#34;&amp;&#34;" in text
    assert "<h1>a &amp; b</h1>" in text


def test_rows_of_a_table_have_as_many_cells_as_its_head(tmp_path):
    """With few labels, a training set may have fewer classes."""
    both = [*rows(spread(0.7)), *rows(spread(0.5), label="rim")]
    _, text = report(tmp_path, [run("scratch", spread(0.6)), run("a", both)])
    for table in re.findall("<table>(.*?)</table>", text, re.DOTALL):
        assert len({len(re.findall("<t[hd][ >]", line)) for line in table.split("</tr>")[:-1]}) == 1


def test_provenance_shows_values_that_all_runs_share():
    found = provenance([run("scratch", [0.5]), run("a", [0.5], lr="0.1")])
    assert (found["task"], found["lr"]) == ("segment", "2 different")


@pytest.mark.parametrize("values", [[0.5], [0.5] * 6, [0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0, 0.9]])
def test_few_or_equal_values_can_be_reported(values, tmp_path):
    page, _ = report(tmp_path, [run("scratch", values), run("a", values[::-1])])
    assert (page.parent / "scores.png").stat().st_size > 1000
