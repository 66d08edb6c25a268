"""Classes, numbers and subgroups of volumes, from CSV files whose rows name volumes or patients."""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from medmim import files
from medmim.config.runs import FinetuneSettings
from medmim.data.dataset.manifest import Dataset, VolumeRecord, read_dataset
from medmim.data.dataset.pseudonyms import KEY_FILE, Keys
from medmim.errors import UsageError, counted
from medmim.text_formats import NOT_STATED, SpreadsheetError, parse_csv, read_table_text, zeros_hint

_KEYS = ("volume", "subject", "patient")
_FIELDS = {"site": "source", "source": "source", "modality": "modality", "group": "group", "split": "split"}
UNKNOWN_GROUP = "not given"
_COMMA_NUMBER = re.compile(r"[-+]?\d[\d.]*,[\d,.]*")


def read_column(
    path: Path, column: str, *, option: str, keys: Sequence[str] = _KEYS
) -> tuple[str, dict[str, str]]:
    """Return the name of the key column, and the value of each key; rows without a value are left out.

    Args:
        path: CSV file, separated by commas, semicolons or tabs, with a column `volume` or `subject` (keys of
            the manifest) or `patient`.
        option: command-line option, for messages.

    Raises:
        UsageError: for a file that cannot be read, a missing column, two values of one key, or a value that
            is written in several ways.
    """
    where = f"{option}: '{path}'"
    try:
        columns, rows = parse_csv(read_table_text(path), delimiters=",;\t")
    except SpreadsheetError as error:
        raise UsageError(f"{where}: {error}") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{where} cannot be read: expected a CSV file") from error
    key = next((one for one in keys if one in columns), None)
    if key is None or column not in columns:
        found_columns = f"the columns {', '.join(columns)}" if columns else "no columns"
        raise UsageError(
            f"{where} has {found_columns}: expected {column}, and {', '.join(keys[:-1])} or {keys[-1]}"
        )
    if twice := [one for one in (key, column) if list(columns).count(one) > 1]:
        raise UsageError(f"{where} has several columns {twice[0]}: expected one")
    found: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        if None in row:  # such as a comma in a text without quotes, after which cells are in wrong columns
            raise UsageError(f"{where} line {number}: expected {counted(len(columns), 'cell')}, got more")
        value = str(row[column] or "").strip()
        name = str(row[key] or "").strip()
        stated = name and value.lower() not in NOT_STATED
        if stated and found.setdefault(name, value) != value:
            raise UsageError(f"{where} line {number}: the {key} of this row has another {column} too")
    return key, _in_one_spelling(found, f"{where}, column {column}")


def _in_one_spelling(values: Mapping[str, str], where: str) -> dict[str, str]:
    """Return the values with equal numbers written alike, such as 1 and 1.0 as 1.

    Raises:
        UsageError: for numbers with a comma, which may be decimal or of thousands; for texts that differ in
            case or spaces only.
    """
    spellings: dict[str | float, set[str]] = defaultdict(set)
    for value in values.values():
        if _COMMA_NUMBER.fullmatch(value):
            raise UsageError(f"{where}: '{value}' has a comma: write numbers as 1234.5")
        spellings[_same(value)].add(value)
    for meaning, written in spellings.items():
        if isinstance(meaning, str) and len(written) > 1:
            shown = " and ".join(f"'{one}'" for one in sorted(written)[:2])
            raise UsageError(f"{where}: {shown} differ in case or spaces only: write one value in one way")
    chosen = {
        meaning: min(written, key=lambda one: (len(one), one)) for meaning, written in spellings.items()
    }
    return {name: chosen[_same(value)] for name, value in values.items()}


def _same(value: str) -> str | float:
    """Return what is equal for two spellings of one value: the number, or the text in plain letters."""
    try:
        return float(value)
    except ValueError:
        return " ".join(value.casefold().split())


def column_values(
    volumes: Sequence[VolumeRecord], key: str, values: Mapping[str, str], project: Keys | None = None
) -> dict[str, str]:
    """Return the value of each volume that the table names, by volume id."""
    if project is None or key != "patient":
        named = {one.id: values.get(one.id if key == "volume" else one.subject) for one in volumes}
        return {name: value for name, value in named.items() if value is not None}
    found: dict[str, str] = {}
    for source in {one.source for one in volumes}:
        scopes = [project, *([project.scoped(source)] if source else [])]
        of_key = {one.key("subject", name): value for name, value in values.items() for one in scopes}
        own = (one for one in volumes if one.source == source and one.subject in of_key)
        found |= {one.id: of_key[one.subject] for one in own}
    return found


def _keys_of(name: str, dataset: Dataset, project: Keys | None) -> set[str]:
    """Return the keys that a name in a table may have in the manifest."""
    if project is None:
        return {name}
    sources = {one.source for one in dataset.volumes if one.source}
    return {one.key("subject", name) for one in (project, *map(project.scoped, sources))}


def with_targets(
    dataset: Dataset, path: Path | None, column: str, *, home: Path, log: Callable[[str], None]
) -> Dataset:
    """Return the dataset with the values of a column as the targets of its volumes."""
    if path is None:
        return dataset
    key, values = read_column(path, column, option="--targets")
    project = Keys.load_or_create(home / KEY_FILE) if key == "patient" else None
    found = column_values(dataset.volumes, key, values, project)
    known = {one.id if key == "volume" else one.subject for one in dataset.volumes}
    hint = zeros_hint(values, lambda name: _keys_of(name, dataset, project) & known)
    if not found:
        raise UsageError(
            f"--targets: no row of '{path}' has the {key} of a volume; expected keys of the dataset{hint}"
        )
    volumes = tuple(
        one.model_copy(update={"target": found.get(one.id), "targets": {}}) for one in dataset.volumes
    )
    without = len(volumes) - len(found)
    used = len({one.id if key == "volume" else one.subject for one in dataset.volumes if one.id in found})
    if without or used < len(values):
        log(
            f"{column}: no value for {without} of {counted(len(volumes), 'volume')}; no volume for "
            f"{len(values) - used} of {counted(len(values), 'row')}{hint}"
        )
    return Dataset(dataset.root, dataset.info, volumes)


def with_keyed_targets(settings: FinetuneSettings, path: Path, *, home: Path) -> FinetuneSettings:
    """Copy the table of the targets with volume ids as keys, and return settings that name the copy.

    The copy can be read without the key of the pseudonyms in the home folder.
    """
    if settings.targets is None:
        return settings
    column, plain = settings.column, read_dataset(settings.data)
    dataset = with_targets(plain, settings.targets, column, home=home, log=lambda line: None)
    table = io.StringIO()
    rows = [[one.id, one.target] for one in dataset.volumes if one.target is not None]
    csv.writer(table, lineterminator="\n").writerows([["volume", column], *rows])
    files.write_text(path, table.getvalue())
    return settings.model_copy(update={"targets": path})


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
    key, values = read_column(path, column, option="--by", keys=_KEYS[:2])
    found = column_values(cases, key, values)
    if not found:
        raise UsageError(f"--by: no row of '{path}' has the {key} of an evaluated case and a {column}")
    return {case.id: found.get(case.id, UNKNOWN_GROUP) for case in cases}
