"""Rows of annotation tables: delimiter, titles above the header, names of columns, and numbers."""

from __future__ import annotations

import importlib
import io
import re
from collections import Counter
from collections.abc import Mapping

from medmim.data.formats.annotations import EntryError
from medmim.text_formats import without_separator_line

_DELIMITERS = ",;\t|"
IMAGE_COLUMNS = (
    "image", "filename", "file", "path", "imagepath", "imagefile", "imagename", "imageid", "imageindex",
    "img", "idcode", "imgid", "fileid", "dicomid", "sopinstanceuid",
    "name", "id", "patientid", "case", "caseid", "scan", "studyid",
)  # fmt: skip
CLASS_COLUMNS = (
    "label", "labels", "class", "classname", "target", "diagnosis", "dx", "category", "finding", "findings",
    "findinglabels", "findinglabel", "labelname", "classlabel", "pathology", "abnormality", "lesiontype",
    "coarselesiontype", "annotation", "object", "type", "grade", "level", "result",
)  # fmt: skip
GROUP_COLUMNS = ("patient", "patientid", "subject", "subjectid", "participant", "participantid", "lesionid")
CORNERS = (("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2"), ("left", "top", "right", "bottom"))
SIZES = (
    ("x", "y", "width", "height"), ("x", "y", "w", "h"), ("left", "top", "width", "height"),
    ("bboxx", "y", "w", "h"),  # "Bbox [x", as NIH's table of boxes writes it
)  # fmt: skip
WORLD = ("seriesuid", "coordx", "coordy", "coordz")
WORLD_SIZES = ("sizexmm", "sizeymm", "sizezmm")
SPLIT_COLUMNS = ("split", "set", "subset", "fold", "partition")
KNOWN = {
    *IMAGE_COLUMNS, *CLASS_COLUMNS, *GROUP_COLUMNS, *SPLIT_COLUMNS, *WORLD, *WORLD_SIZES, "diametermm",
    *(name for names in (*CORNERS, *SIZES) for name in names),
}  # fmt: skip
_CORNER_NAMES = {name for names in (*CORNERS, *SIZES) for name in names} - {"x", "y", "w", "h"}
_LINES_OF_TITLES = 10
Row = Mapping[str, str]


def rows_of(text: str) -> tuple[list[dict[str, str]], Counter[str]]:
    """Return the rows with columns in plain lower case, and count those with too many cells."""
    faults: Counter[str] = Counter()

    def skip(_: list[str]) -> None:
        faults["malformed"] += 1

    text = _from_header(without_separator_line(text.lstrip("\n")))
    head = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=head.count)
    if not head.count(delimiter):
        return [], faults
    pd = importlib.import_module("pandas")  # large, and needed for tables only
    try:
        table = pd.read_csv(
            io.StringIO(text),
            sep=delimiter,
            dtype=str,
            keep_default_na=False,
            na_filter=False,
            engine="python",
            on_bad_lines=skip,
            skip_blank_lines=True,
            index_col=False,
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError):
        return [], faults
    names = [plain if (plain := plain_name(name)) in KNOWN else str(name).strip() for name in table.columns]
    records = table.fillna("").to_numpy(dtype=str)
    return [
        dict(zip(names, (cell.strip() for cell in record), strict=True)) for record in records.tolist()
    ], faults


def _from_header(text: str) -> str:
    """Return a table without titles above the names of its columns, such as the name of a study.

    The first of its first lines that names images and classes or corners is the header.
    """
    lines = text.split("\n")
    for number, line in enumerate(lines[:_LINES_OF_TITLES]):
        names = {plain_name(cell.strip("\"'")) for cell in re.split(r"[,;\t|]", line)}
        if names & set(IMAGE_COLUMNS) and (names & set(CLASS_COLUMNS) or names & _CORNER_NAMES):
            return "\n".join(lines[number:])
    return text


def plain_name(column: object) -> str:
    """Return the name of a column in lower case, without spaces and signs."""
    return re.sub(r"[\s_.\-\[\]]", "", str(column)).lower()


def number_in(cell: str) -> float:
    """Parse a number with a decimal point or comma.

    Raises:
        EntryError: with reason malformed.
    """
    try:
        return float(cell.replace(",", ".") if cell.count(",") == 1 and "." not in cell else cell)
    except ValueError as error:
        raise EntryError("malformed") from error
