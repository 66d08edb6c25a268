"""Rows of tables are found below titles and separator lines, and numbers have one value."""

import pytest

from medmim.data.formats.annotation_rows import number_in, plain_name, rows_of
from medmim.data.formats.annotations import EntryError

ROWS = [{"image": "a.png", "label": "x"}, {"image": "b.png", "label": "y"}]
TABLE = "Image;Label\na.png;x\nb.png;y\n"


@pytest.mark.parametrize("above", ["", "sep=;\n", '"sep=;"\n', "Study of 2020;\n\n", "\nA, B and C\n;;\n"])
def test_titles_and_separator_lines_are_left_out(above):
    rows, faults = rows_of(above + TABLE)
    assert (rows, faults.total()) == (ROWS, 0)


def test_rows_with_too_many_cells_are_counted():
    rows, faults = rows_of(TABLE + "c.png;x;y\n")
    assert (rows, faults) == (ROWS, {"malformed": 1})


def test_names_of_columns_and_numbers():
    assert plain_name(" Image_Index ") == "imageindex"
    assert [number_in(cell) for cell in ("1.5", "1,5", "-2")] == [1.5, 1.5, -2.0]
    with pytest.raises(EntryError, match="malformed"):
        number_in("1,5,0")
