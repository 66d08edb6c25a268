"""Cases of a comparison of predictions: matching by file name, patients, and cases that count as wrong."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medmim.data.dataset.splits import patient_digest
from medmim.data.ingest.layout_rules import SubjectRule
from medmim.errors import DataError, UsageError, counted
from medmim.text_formats import zeros_hint

Row = Mapping[str, Any]
Progress = Callable[[str, int, int], None]
_ROLE = re.compile(r"[-_. ](0000|seg|segmentation|label|labels|mask|gt|pred|prediction)$", re.IGNORECASE)
_NAME = re.compile(r"[\w][\w .+-]{0,39}")
MISSING = "missing"
_REASONS = {
    MISSING: "without a prediction",
    "label_shape": "of another shape than the label",
    "label_offset": "shifted against the label by more than half a voxel",
}


@dataclass(frozen=True)
class PredictionSet:
    """Predictions of one training of a tool.

    Attributes:
        seed: number among the sets of this tool, from 0.
    """

    tool: str
    seed: int
    path: Path


@dataclass(frozen=True)
class RejectedCase:
    """A case that counts as wrong, because its prediction cannot be compared.

    Attributes:
        case: file name of the label without its ending; never written to a report.
        reason: `missing`, or why the file cannot be used.
    """

    tool: str
    case: str
    reason: str

    @property
    def words(self) -> str:
        """What is wrong, for reports."""
        return _words(self.reason)

    @property
    def sentence(self) -> str:
        """The line for the terminal."""
        return f"{self.tool}: {self.case}: {self.words}; counted as wrong"


@dataclass(frozen=True)
class ScoredPredictions:
    """Scores of all sets of predictions.

    Attributes:
        rows: of each set, in the order of the sets; the metric that is tested is named in each row.
        described: title → key of rows, of metrics that are also shown; means over patients.
        notes: rules that were applied, and files that were not used.
        tables: further tables of the report, by heading.
    """

    rows: tuple[tuple[Row, ...], ...]
    described: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[RejectedCase, ...] = ()
    notes: tuple[str, ...] = ()
    tables: Mapping[str, Sequence[Mapping[str, str]]] = field(default_factory=dict)


def prediction_sets(texts: Sequence[str]) -> tuple[PredictionSet, ...]:
    """Parse NAME=PATH; a repeated name means several training runs.

    Raises:
        UsageError: for text of another form, or a path that does not exist or is given twice.
    """
    count: Counter[str] = Counter()
    found: list[PredictionSet] = []
    for text in texts:
        name, _, place = text.partition("=")
        path = Path(place)
        if not _NAME.fullmatch(name) or not place:
            raise UsageError(
                f"--predictions: expected NAME=FOLDER (or NAME=FILE), with a name of letters, digits, spaces "
                f"and . + - _ that begins with a letter or digit, got {text!r}"
            )
        if not path.exists():
            raise UsageError(f"--predictions {name}: '{path}' does not exist; check the path")
        if path.resolve() in {one.path.resolve() for one in found}:
            raise UsageError(f"--predictions {name}: '{path}' is given twice; expected other predictions")
        found.append(PredictionSet(name, count[name], path))
        count[name] += 1
    return tuple(found)


def matched(truth: Iterable[str], predicted: Iterable[str]) -> dict[str, str]:
    """Return the prediction of each case by name, without endings such as `_0000` or `_seg` where needed.

    Returns:
        Label → prediction, for labels that have one.

    Raises:
        DataError: if two predictions have the name of one label once their endings are left out.
    """
    names, unused = list(truth), set(predicted)
    found = {name: name for name in names if name in unused}
    unused -= found.keys()
    short: dict[str, list[str]] = {}
    for name in sorted(unused):
        short.setdefault(_without_role(name), []).append(name)
    for name in names:
        options = [] if name in found else short.pop(_without_role(name), [])
        if len(options) > 1:
            raise DataError(
                f"'{name}' has {len(options)} predictions ({', '.join(options)}): expected one; remove others"
            )
        if options:
            found[name] = options[0]
    return found


def _without_role(name: str) -> str:
    """Return a name without its ending, such as _0000 (nnU-Net's channel) or _seg."""
    return _ROLE.sub("", name)


def patients(names: Sequence[str], rule: SubjectRule) -> tuple[dict[str, str], str]:
    """Return the digest of each case's patient, and the note on how patients were distinguished."""
    if not rule:
        note = "every file counts as a separate patient; group them with --subject-pattern or --subjects"
        return {name: patient_digest(name) for name in names}, note
    found = rule.subjects(names)
    note = f"{counted(len(names), 'case')} of {counted(len(set(found.values())), 'patient')}, by your rule"
    return {name: patient_digest(found[name]) for name in names}, note


def unmatched_images(
    one: PredictionSet, found: Mapping[str, object], truth: Mapping[str, object]
) -> tuple[list[str], list[RejectedCase]]:
    """Return notes on the images of a table without a label, and the cases that the table lacks.

    Raises:
        DataError: if no image of the table has a label.
    """
    extra = found.keys() - truth.keys()
    hint = zeros_hint(extra, truth.__contains__) or zeros_hint(
        truth.keys() - found.keys(), found.__contains__
    )
    if len(extra) == len(found):
        raise DataError(
            f"{one.tool}: none of {counted(len(found), 'image')} has a label; expected the same names{hint}"
        )
    notes = [f"{one.tool}: images without a label, not used: {len(extra)}{hint}"] if extra else []
    return notes, [RejectedCase(one.tool, name, MISSING) for name in truth if name not in found]


def problem_notes(sets: Sequence[PredictionSet], problems: Sequence[RejectedCase], cases: int) -> list[str]:
    """Return how many cases of each tool count as wrong, without their names."""
    counts = Counter((one.tool, one.reason) for one in problems)
    trainings = Counter(one.tool for one in sets)
    return [
        f"{tool}: {count} of {counted(cases * trainings[tool], 'case')} {_words(reason)}: counted as wrong"
        for (tool, reason), count in sorted(counts.items())
    ]


def _words(reason: str) -> str:
    return _REASONS.get(reason, f"that cannot be read ({reason})")
