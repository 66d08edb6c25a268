"""JSON, CSV and names: malformed input raises ValueError, and no written cell is a formula."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

NOT_STATED = frozenset(
    {"", "nan", "na", "n/a", "#n/a", "<na>", "null"}
)  # empty cells, as programs write them
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")  # spreadsheets also evaluate the wide forms

_WIDTHS = range(2, 17)  # digits of numbers with leading zeros, as 007
_SPREADSHEETS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # the first bytes of .xlsx and .ods, and of .xls


class SpreadsheetError(ValueError):
    """A file of a spreadsheet program stands where CSV is expected."""


def decode_text(content: bytes) -> str:
    """Decode a text by its byte order mark, as UTF-8, as UTF-16 without mark, or as Windows-1252."""
    marks = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
    encoding = next((name for mark, name in marks.items() if content.startswith(mark)), None)
    if encoding is None and b"\0" in content[:200]:
        encoding = "utf-16-le" if content[1:2] == b"\0" else "utf-16-be"
    try:
        return content.decode(encoding or "utf-8")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def read_table_text(path: Path) -> str:
    """Return the text of a CSV file in any encoding of `decode_text`.

    Raises:
        OSError: if it cannot be read.
        SpreadsheetError: for a file of a spreadsheet program.
    """
    content = path.read_bytes()
    if content.startswith(_SPREADSHEETS):
        raise SpreadsheetError("expected CSV, got a spreadsheet: save it as CSV (UTF-8)")
    return decode_text(content)


def without_separator_line(text: str) -> str:
    """Return a table without the line `sep=;` that spreadsheets read as the separator of the others."""
    first, _, rest = text.partition("\n")
    return rest if re.fullmatch(r"\"?sep=.\"?\r?", first, re.IGNORECASE) else text


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
        delimiters: of these, the one that is most frequent in the first line separates the fields; a line
            `sep=;` before it is left out, and spaces around names of columns are.

    Raises:
        ValueError: for fields that are too long, and for characters that CSV cannot contain.
    """
    text = without_separator_line(text)
    delimiter = max(delimiters, key=text.partition("\n")[0].count)
    reader = csv.DictReader(text.splitlines(), delimiter=delimiter)
    try:
        reader.fieldnames = columns = [name.strip() for name in reader.fieldnames or ()]
        rows = list(reader)
    except csv.Error as error:
        raise ValueError(f"no CSV: {error}") from error
    return columns, rows


def names_without_zeros(names: Iterable[str], find: Callable[[str], object]) -> int:
    """Return how many names are whole numbers that `find` only finds with leading zeros, as 007 for 7."""
    numbers = (name for name in names if name.isdecimal() and not find(name))
    return sum(any(find(name.zfill(width)) for width in _WIDTHS if width > len(name)) for name in numbers)


def zeros_hint(names: Iterable[str], find: Callable[[str], object]) -> str:
    """Return the end of a message on names that are not found: how many lack leading zeros; "" if none."""
    count = names_without_zeros(names, find)
    return (
        f"; {count} of these would match with leading zeros, as 007 for 7, which spreadsheets drop: format "
        "that column as text, enter the zeros again and save it as CSV"
        if count
        else ""
    )


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
