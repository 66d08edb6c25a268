"""Pages share one layout, escape what they show, and fail on a missing value."""

import jinja2
import pytest

from medmim.pages import columns, render_page


def template(tmp_path, body):
    path = tmp_path / "page.html"
    path.write_text(
        '{% extends "base.html" %}{% from "table.html" import table with context %}'
        f"{{% block body %}}{body}{{% endblock %}}",
        encoding="utf-8",
    )
    return path


def test_values_are_escaped_and_rows_may_have_different_columns(tmp_path):
    rows = [{"arm": "<b>"}, {"arm": "scratch", "dice": "0.8"}]
    page = render_page(template(tmp_path, "{{ table(rows) }}"), title="a & b", rows=rows)
    assert "<h1>a &amp; b</h1>" in page
    assert '<td data-column="arm">&lt;b&gt;</td><td data-column="dice"></td>' in page
    assert "<th>arm</th><th>dice</th>" in page
    assert columns(rows) == ["arm", "dice"]


def test_a_missing_value_is_an_error(tmp_path):
    with pytest.raises(jinja2.UndefinedError, match=r"^'rows' is undefined$"):
        render_page(template(tmp_path, "{{ rows }}"), title="a")
