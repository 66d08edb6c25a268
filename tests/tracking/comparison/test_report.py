import csv
import io
import re

import pytest
from PIL import Image
from recorded_runs import rows, run, spread

from medmim.tracking.comparison.report import draw, write_report
from medmim.tracking.comparison.runs import compare

ODD = 'a <b>"&" $\\frac$'


def report(tmp_path, runs):
    page = write_report(tmp_path / "reports", compare(runs), runs)
    return page, page.read_text(encoding="utf-8")


def table(path):
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def test_the_page_holds_everything(tmp_path):
    runs = [run("scratch", spread(0.6)), run("spark mesh 0.7", spread(0.7))]
    page, text = report(tmp_path, runs)
    assert page.name == "report.html"
    assert {path.name for path in page.parent.iterdir()} == {
        "report.html",
        "comparison.png",
        "arms.csv",
        "cases.csv",
    }
    assert compare(runs).verdicts[0] in text
    assert "spark mesh 0.7" in text
    assert "data:image/png;base64," in text


def test_the_page_loads_nothing(tmp_path):
    _, text = report(tmp_path, [run("scratch", spread(0.6)), run("a", spread(0.7))])
    assert not re.search(r"https?:|//cdn|<script|<link|@import|url\(", text)
    assert set(re.findall(r'(?:src|href)="(.{5})', text)) == {"data:"}


def test_names_are_escaped(tmp_path):
    page, text = report(tmp_path, [run("scratch", spread(0.6)), run(ODD, rows(spread(0.7), label=ODD))])
    assert "<b>" not in text
    assert "a &lt;b&gt;&quot;&amp;&quot;" in text
    with Image.open(page.parent / "comparison.png") as picture:
        picture.verify()


def test_the_same_runs_have_the_same_page_in_any_order(tmp_path):
    runs = [run("scratch", spread(0.6)), run("a", spread(0.7))]
    first = write_report(tmp_path, compare(runs), runs)
    assert write_report(tmp_path, compare(runs[::-1]), runs[::-1]) == first


def test_tables_are_complete(tmp_path):
    page, _ = report(tmp_path, [run("scratch", spread(0.6)), run("a", spread(0.7))])
    arms, cases = table(page.parent / "arms.csv"), table(page.parent / "cases.csv")
    assert [arm["arm"] for arm in arms] == ["scratch", "a"]
    assert len(cases) == 24
    assert {"arm", "seed", "case", "patient", "label", "dice", "hd95_mm"} <= set(cases[0])


def test_arms_may_know_different_classes(tmp_path):
    """With few labels, training may see fewer classes."""
    both = [*rows(spread(0.7)), *rows(spread(0.5), label="rim")]
    page, text = report(tmp_path, [run("scratch", spread(0.6)), run("a", both)])
    arms = table(page.parent / "arms.csv")
    assert arms[0]["Dice rim"] == ""
    assert arms[1]["Dice rim"].startswith("0.5")
    lines = re.search(r"<h2>Arms</h2><table>(.*?)</table>", text).group(1).split("</tr>")[:-1]
    assert len({len(re.findall("<t[hd]>", line)) for line in lines}) == 1


@pytest.mark.parametrize("values", [[0.5], [0.5] * 6, [0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0, 0.9]])
def test_few_or_equal_values_can_be_drawn(values):
    runs = [run("scratch", values), run("a", values[::-1])]
    with Image.open(io.BytesIO(draw(compare(runs)))) as picture:
        picture.verify()


def test_one_arm_can_be_reported(tmp_path):
    _, text = report(tmp_path, [run("scratch", spread(0.6))])
    assert "only one arm" in text
