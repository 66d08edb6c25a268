"""HTML pages: the layout that comparisons, evaluations and the index of reports share, filled with jinja2."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from medmim import __version__


def columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the columns of all rows: an arm trained on few labels may have fewer classes than another."""
    return list(dict.fromkeys(key for row in rows for key in row))


def render_page(template: Path, **values: Any) -> str:
    """Return a page.

    Args:
        template: file that extends `base.html` and may import `table` from `table.html`.
        **values: values of the template, escaped as they are inserted; a missing one is an error. The
            filter `base64` embeds pictures.
    """
    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    pages.filters["base64"] = lambda png: base64.b64encode(png).decode()
    pages.globals |= {"columns": columns, "version": __version__}
    return pages.get_template(template.name).render(**values)
