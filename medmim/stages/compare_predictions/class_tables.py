"""Class tables (CSV) of any tool, scored against a table of true classes or ordered grades."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from medmim.data.dataset.splits import patient_digest
from medmim.data.formats.file_types import open_regular
from medmim.data.ingest.layout_rules import SubjectRule
from medmim.errors import DataError, UsageError
from medmim.stages.compare_predictions.cases import (
    PredictionSet,
    RejectedCase,
    Row,
    ScoredPredictions,
    patients,
    problem_notes,
    unmatched_images,
)
from medmim.text_formats import NOT_STATED, decode_text, parse_csv
from medmim.training.evaluation.classification_metrics import arrays, calibration_curve, grades_of

IMAGE_COLUMNS = ("image", "file", "case", "id")
GRADE = "grade"
CLASS_COLUMNS = ("label", "class", GRADE)
_KAPPA = "quadratic_kappa"
_MOST_GRADES = 20
_MAX_BYTES = 1 << 28
_OFF = 0.05  # rounding error of a sum of probabilities
_WHY_GRADES = "quadratic kappa is tested, because it weighs an error by its distance; accuracy is described"
_WHY = "macro-F1 is tested, because every class has equal weight; accuracy is described"


def score_class_tables(
    sets: Sequence[PredictionSet], labels: Path, subjects: SubjectRule
) -> ScoredPredictions:
    """Score CSV files with the columns image and label, or image and the probability of each class.

    If the labels have a column `grade`, the classes are all integers from the lowest to the highest. An image
    without a prediction counts as predicted to be a wrong class: the most frequent other one, or the farthest
    grade.

    Raises:
        UsageError: for a table of another form.
        DataError: for classes or images that do not fit the labels.
    """
    classes = _classes(labels)
    grades = _grades([labels, *(one.path for one in sets)]) if is_graded(labels) else []
    names = grades or sorted(set(classes.values()))
    who, note = patients(list(classes), subjects)
    notes, problems = [_WHY_GRADES if grades else _WHY, note], list[RejectedCase]()
    rows, curves = list[tuple[Row, ...]](), list[dict[str, str]]()
    for one in sets:
        found = read_table(one.path)
        unused, missing = unmatched_images(one, found, classes)
        notes, problems = [*notes, *unused], [*problems, *missing]
        shares = {name: _shares(one, row, names) for name, row in found.items() if name in classes}
        own = {
            name: _row(name, label, shares.get(name) or _wrong(label, classes, grades), who)
            for name, label in classes.items()
        }
        if grades:
            own = {
                name: {**row, **grades_of(row["probabilities"], row["class"], grades), "metric": _KAPPA}
                for name, row in own.items()
            }
        rows.append(tuple(own.values()))
        known = arrays([own[name] for name in shares], names)
        curves += [{"tool": one.tool, **line} for line in calibration_curve(*known)]
    notes += problem_notes(sets, problems, len(classes))
    tables = {"Calibration in bins of equal size": curves}
    return ScoredPredictions(tuple(rows), {"accuracy": "accuracy"}, tuple(problems), tuple(notes), tables)


def _row(name: str, label: str, shares: Mapping[str, float], who: Mapping[str, str]) -> Row:
    return {
        **{"metric": "macro_f1", "case": patient_digest(name), "patient": who[name]},
        **{"class": label, "probabilities": shares, "hd95_mm": None},
        "accuracy": float(max(shares, key=lambda key: shares[key]) == label),
    }


def _classes(labels: Path) -> dict[str, str]:
    """Return the true class of each image."""
    truth = read_table(labels)
    column = next((one for one in CLASS_COLUMNS if one in next(iter(truth.values()))), None)
    if column is None:
        raise UsageError(f"--labels '{labels.name}': expected the columns image and label, got no label")
    classes = {name: row[column] for name, row in truth.items()}
    if empty := [name for name, label in classes.items() if label.lower() in NOT_STATED]:
        raise DataError(
            f"--labels '{labels.name}': expected a {column} for each image, got none for {len(empty)}, such "
            f"as {empty[0]}; leave out their rows"
        )
    names = sorted(set(classes.values()))
    if len(names) < 2:
        raise DataError(f"--labels '{labels.name}': expected two classes or more, got {len(names)}")
    if len({name.casefold() for name in names}) < len(names):
        raise DataError(f"--labels '{labels.name}': of {', '.join(names)}, some differ in case only")
    return classes


def is_graded(labels: Path) -> bool:
    """Return whether the labels are ordered grades."""
    return GRADE in next(iter(read_table(labels).values()))


def _grades(tables: Sequence[Path]) -> list[str]:
    """Return all integers from the lowest to the highest grade of the tables.

    Raises:
        UsageError: for grades that are no integers, or are too many.
    """
    texts = {row[GRADE] for path in tables for row in read_table(path).values() if GRADE in row}
    numbers = {
        int(text) for text in texts if re.fullmatch(r"-?\d{1,9}", str(text)) and str(int(text)) == text
    }
    low, high = (min(numbers), max(numbers)) if numbers else (0, 0)
    if len(numbers) < len(texts) or high - low >= _MOST_GRADES:
        raise UsageError(
            f"grades: expected integers such as 0, 1, 2, at most {_MOST_GRADES} of them, got "
            f"{', '.join(sorted(map(str, texts))[:_MOST_GRADES])}"
        )
    return [str(number) for number in range(low, high + 1)]


def _wrong(label: str, classes: Mapping[str, str], grades: Sequence[str]) -> dict[str, float]:
    """Return certainty of the most frequent class other than the true one, or of the farthest grade."""
    if grades:
        far = grades[0] if int(label) - int(grades[0]) > int(grades[-1]) - int(label) else grades[-1]
        return {name: float(name == far) for name in grades}
    counts = Counter(classes.values())
    other = min((name for name in counts if name != label), key=lambda name: (-counts[name], name))
    return {name: float(name == other) for name in counts}


def _shares(one: PredictionSet, row: Mapping[str, str], names: Sequence[str]) -> dict[str, float]:
    """Return the probability of each class in a row of predictions; names may differ in case."""
    column = next((key for key in CLASS_COLUMNS if key in row), None)
    row = row if column else {_called(key, names): value for key, value in row.items()}
    try:
        if column is None:
            shares = {name: float(row[name]) for name in names}
            if not all(0 <= share <= 1 for share in shares.values()) or abs(1 - sum(shares.values())) > _OFF:
                raise ValueError("no probabilities")  # such as percentages, or a class is not in the labels
            return shares
        chosen = names[names.index(_called(row[column], names))]
        return {name: float(name == chosen) for name in names}
    except (KeyError, ValueError, TypeError) as error:
        got = f"'{row[column]}'" if column else f"the columns {', '.join(row)}"
        raise DataError(
            f"{one.tool}: expected a label that occurs in the labels, or a column of probabilities for each "
            f"of {', '.join(names)}, with the sum 1; got {got}; correct the table"
        ) from error


def _called(text: str, names: Sequence[str]) -> str:
    """Return the name that a text is, or the only one from which it differs in case."""
    alike = [name for name in names if name.casefold() == text.casefold()]
    return alike[0] if len(alike) == 1 and text not in names else text


def read_table(path: Path) -> dict[str, dict[str, str]]:
    """Return the rows of a table by image; endings of file names are left out.

    Raises:
        UsageError: for a table without a column of images, with cells that have no column, or with an image
            or a column twice.
    """
    with open_regular(path) as stream:
        text = decode_text(stream.read(_MAX_BYTES))
    try:
        columns, rows = parse_csv(text, delimiters=",;\t")
    except ValueError as error:
        raise UsageError(f"'{path.name}' cannot be read ({error}): expected CSV") from error
    column = next((one for one in IMAGE_COLUMNS if rows and one in columns), None)
    if column is None:
        raise UsageError(f"'{path.name}': expected CSV with a column image (or file, case, id), and rows")
    if len(set(columns)) < len(columns) or any(None in row for row in rows):
        raise UsageError(f"'{path.name}': expected each column once, and no more cells in a row than columns")
    cells = [{name: str(cell or "").strip() for name, cell in row.items()} for row in rows]
    found = {Path(row[column]).name.partition(".")[0]: row for row in cells}
    if len(found) < len(rows):
        raise UsageError(
            f"'{path.name}': expected each image once, got {len(rows) - len(found)} more than once"
        )
    return found
