import base64

from medmim.stages.evaluate.report import PAGE, GroupScores, write_report

ROW = {"metric": "dice", "value": 0.5, "low": None, "high": None, "patients": 1}


def test_a_page_escapes_names_and_shows_subgroups_without_an_interval(tmp_path):
    everyone = {"p": 0.5, "perfect": 1.0}
    groups = [GroupScores("all cases", 1, [ROW], everyone), GroupScores("<north>", 1, [ROW], {"p": 0.5})]
    options = {"facts": {"model": "<b>"}, "contamination": ("unknown", True), "notes": ["one note"]}
    pictures = {"panel": None, "summary": b"summary"}
    write_report(tmp_path, groups, metric="dice", title="a & b", pictures=pictures, **options)
    page = (tmp_path / PAGE).read_text()
    assert "&lt;north&gt;" in page
    assert "<b>" not in page
    assert "one note" in page
    assert "<north>" in (tmp_path / "scores.csv").read_text()
    assert '<td data-column="patient">p<' in page
    assert '<td data-column="patient">perfect<' not in page
    assert base64.b64encode(b"summary").decode() in page
    assert (tmp_path / "summary.png").read_bytes() == b"summary"
