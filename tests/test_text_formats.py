"""Damaged JSON and CSV of others raise ValueError, so that their readers name the file in one line."""

import pytest

from medmim.text_formats import (
    SpreadsheetError,
    csv_text,
    names_without_zeros,
    natural_order,
    parse_csv,
    parse_json,
    read_table_text,
    zeros_hint,
)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"a": ' * 100_000, "9" * 5000, ""])
def test_damaged_json_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"nested too deeply|Expecting|Exceeds"):
        parse_json(text)


def test_json_is_parsed():
    assert parse_json(b'{"a": [1, 2.5, null]}') == {"a": [1, 2.5, None]}


def test_csv_is_parsed_with_its_columns():
    assert parse_csv("file;patient\na;b\n", delimiters=",;") == (
        ["file", "patient"],
        [{"file": "a", "patient": "b"}],
    )
    assert parse_csv("file,patient\n") == (["file", "patient"], [])
    assert parse_csv("") == ([], [])
    assert parse_csv("sep=;\r\nfile ; patient\r\na;b\r\n", delimiters=",;") == (
        ["file", "patient"],
        [{"file": "a", "patient": "b"}],
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
def test_tables_are_read_in_the_encodings_of_spreadsheets(encoding, tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("patient;größe\nA;2\n".encode(encoding))
    assert read_table_text(path) == "patient;größe\nA;2\n"


@pytest.mark.parametrize("start", [b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"])
def test_a_spreadsheet_is_named(start, tmp_path):
    (tmp_path / "a.csv").write_bytes(start + b"\0" * 99)
    with pytest.raises(SpreadsheetError, match="got a spreadsheet: save it as CSV"):
        read_table_text(tmp_path / "a.csv")


def test_a_field_without_end_is_a_value_error():
    with pytest.raises(ValueError, match="no CSV: field larger than field limit"):
        parse_csv("file\n" + "x" * 200_000)


def test_cells_that_a_spreadsheet_would_evaluate_are_quoted():
    rows = [{"name": "=cmd()", "@head": "+1 mm"}, {"name": "-0.5", "x": -0.5}, {"name": "a'b, c"}]
    assert csv_text(rows).splitlines() == [
        "name,'@head,x",
        "'=cmd(),'+1 mm,",
        "-0.5,,-0.5",
        '"a\'b, c",,',
    ]
    assert csv_text([], ("volume", "class")) == "volume,class\n"


@pytest.mark.parametrize("start", list("=+-@\t\r\n＝＋－＠"))
def test_no_start_of_a_formula_begins_a_cell(start):
    [_, cell, *_] = csv_text([{"name": f"{start}cmd|'/c calc'!A0"}]).replace('"', "").split("\n")
    assert cell.startswith("'")


def test_names_are_sorted_by_their_numbers():
    names = ["case_10", "10b", "case_2", "a", "case_2_1", "2b"]
    assert sorted(names, key=natural_order) == ["2b", "10b", "a", "case_2", "case_2_1", "case_10"]


def test_numbers_that_match_with_leading_zeros_only_are_counted():
    known = {"007", "12", "a7", "0000000000000003"}.__contains__
    assert names_without_zeros(["7", "12", "a", "3", "5", "07"], known) == 3
    assert zeros_hint(["7"], known).startswith("; 1 of these would match with leading zeros, as 007 for 7")
    assert zeros_hint(["12", "99"], known) == ""
