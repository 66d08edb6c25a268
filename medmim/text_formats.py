"""JSON, CSV and names: malformed input raises ValueError, and no written cell is a formula."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

NOT_STATED = frozenset(
    {"", "nan", "na", "n/a", "#n/a", "<na>", "null"}
)  # empty cells, as programs write them
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")  # spreadsheets also evaluate the wide forms


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: for anything else, and for values nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("JSON is nested too deeply") from error


def natural_order(name: str) -> list[str | int]:
    """Return a key that sorts names with their numbers: case_2 before case_10."""
    parts = re.split(r"([0-9]+)", name)  # text and digits in turn
    return [int(part) if number % 2 else part for number, part in enumerate(parts)]


def parse_csv(text: str, *, delimiters: str = ",") -> tuple[Sequence[str], list[dict[str, str]]]:
    """Parse CSV; return its columns and its rows.

    Args:
        delimiters: of these, the one that is most frequent in the first line separates the fields.

    Raises:
        ValueError: for fields that are too long, and for characters that CSV cannot contain.
    """
    delimiter = max(delimiters, key=text.partition("\n")[0].count)
    reader = csv.DictReader(text.splitlines(), delimiter=delimiter)
    try:
        columns, rows = list(reader.fieldnames or ()), list(reader)
    except csv.Error as error:
        raise ValueError(f"no CSV: {error}") from error
    return columns, rows


def csv_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """Return rows as CSV; a text that a spreadsheet would evaluate as a formula gets a leading apostrophe.

    Args:
        rows: column → value; missing values are left empty.
        columns: used if there are no rows; otherwise the columns are those of all rows.
    """
    stream = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row)) or list(columns)
    writer = csv.DictWriter(stream, fieldnames=names, restval="", lineterminator="\n")
    writer.writerow({name: _csv_cell(name) for name in names})
    writer.writerows({name: _csv_cell(value) for name, value in row.items()} for row in rows)
    return stream.getvalue()


def _csv_cell(value: Any) -> Any:
    if not isinstance(value, str) or not value.startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value
