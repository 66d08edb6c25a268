"""JSON and CSV that others wrote: whatever is wrong with such a text is a ValueError."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: for anything else, and for values nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("JSON is nested too deeply") from error


def parse_csv(text: str, *, delimiter: str = ",") -> tuple[Sequence[str], list[dict[str, str]]]:
    """Parse CSV; return its columns and its rows.

    Raises:
        ValueError: for fields that are too long, and for characters that CSV cannot contain.
    """
    reader = csv.DictReader(text.splitlines(), delimiter=delimiter)
    try:
        columns, rows = list(reader.fieldnames or ()), list(reader)
    except csv.Error as error:
        raise ValueError(f"no CSV: {error}") from error
    return columns, rows
