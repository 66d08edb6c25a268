"""Results are shown as HTML in notebooks and as aligned text by print."""

from medmim.notebook import NotebookResult


class Scores(NotebookResult):
    def table(self):
        return [["arm", "Dice"], ["spark <mesh>", "0.8"]]

    def remarks(self):
        return ["a & b"]

    def picture(self):
        return b"\x89PNG"


def test_html_shows_table_remarks_and_picture_with_escaped_text():
    html = Scores()._repr_html_()
    assert "<td>spark &lt;mesh&gt;</td><td>0.8</td>" in html
    assert "<p>a &amp; b</p>" in html
    assert "data:image/png;base64,iVBORw==" in html


def test_text_is_aligned():
    assert str(Scores()).splitlines() == ["arm           Dice", "spark <mesh>  0.8", "a & b"]
