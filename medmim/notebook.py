"""Display of results: a table, lines of text and a picture as HTML for notebooks, or as plain text."""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from collections.abc import Sequence
from html import escape
from pathlib import Path

Table = Sequence[Sequence[str]]


class NotebookResult(ABC):
    """A result that notebooks show as HTML and `print` shows as text."""

    @abstractmethod
    def table(self) -> Table:
        """Return the rows of the table; the first row contains the headings."""

    def remarks(self) -> Sequence[str]:
        """Return the lines below the table."""
        return ()

    def picture(self) -> bytes | None:
        """Return a PNG image, or None."""
        return None

    def _repr_html_(self) -> str:
        head, *rows = self.table()
        lines = ["<table>", _html_row(head, "th"), *(_html_row(row, "td") for row in rows), "</table>"]
        lines += [f"<p>{escape(line)}</p>" for line in self.remarks()]
        png = self.picture()
        if png is not None:
            data = base64.b64encode(png).decode()
            lines.append(f'<img style="max-width: 100%" alt="" src="data:image/png;base64,{data}">')
        return "\n".join(lines)

    def __str__(self) -> str:
        """Return the table and the remarks as aligned text."""
        rows = self.table()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join([*lines, *self.remarks()])


def read_picture(path: Path) -> bytes | None:
    """Return the content of a picture; None if the file does not exist."""
    return path.read_bytes() if path.is_file() else None


def _html_row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"
