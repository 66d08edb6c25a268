"""Subgroups of evaluated cases: by a field of the manifest, or by a column of a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from medmim.data.dataset.manifest import VolumeRecord
from medmim.errors import UsageError

_FIELDS = {"site": "source", "source": "source", "modality": "modality", "group": "group", "split": "split"}
_KEYS = ("volume", "subject")
UNKNOWN_GROUP = "not given"


def subgroups(cases: Sequence[VolumeRecord], by: str) -> dict[str, str]:
    """Return the subgroup of each case by volume id.

    Args:
        cases: evaluated volumes.
        by: `site` (the source of a dataset of several sources), `modality`, `group` or `split`; `scanner`
            where the manifest has that flag; or `FILE.csv:COLUMN`, where the file has a column `volume` or
            `subject` with keys of the manifest.

    Raises:
        UsageError: if the manifest does not have the field, or the file lacks a column or all cases.
    """
    path, separator, column = by.rpartition(":")
    if separator and path.lower().endswith(".csv"):
        return _from_csv(cases, Path(path), column)
    field = _FIELDS.get(by)
    found = {case.id: getattr(case, field) if field else case.flags.get(by) for case in cases}
    if not any(found.values()):
        raise UsageError(
            f"--by {by}: the dataset does not record it; expected {', '.join(_FIELDS)} where the manifest "
            "has it, or FILE.csv:COLUMN with a column volume or subject that holds keys of manifest.jsonl"
        )
    return {name: value or UNKNOWN_GROUP for name, value in found.items()}


def _from_csv(cases: Sequence[VolumeRecord], path: Path, column: str) -> dict[str, str]:
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, ValueError) as error:
        raise UsageError(f"--by: '{path}' cannot be read: expected a CSV file") from error
    columns = list(rows[0]) if rows else []
    key = next((one for one in _KEYS if one in columns), None)
    if key is None or column not in columns:
        raise UsageError(
            f"--by: '{path}' has the columns {', '.join(columns) or 'none'}: expected {column}, and volume "
            "or subject"
        )
    groups: Mapping[str, str] = {str(row[key]).strip(): str(row[column] or "").strip() for row in rows}
    found = {case.id: groups.get(case.id if key == "volume" else case.subject) for case in cases}
    if not any(found.values()):
        raise UsageError(f"--by: no row of '{path}' has the {key} of an evaluated case")
    return {name: value or UNKNOWN_GROUP for name, value in found.items()}
