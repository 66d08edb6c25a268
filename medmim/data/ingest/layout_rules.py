"""Decisions of the user about undescribed layouts: roles of files, patients, classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from medmim.data.ingest.path_words import Role, bare_name
from medmim.errors import DataError, UsageError, counted
from medmim.text_formats import SpreadsheetError, parse_csv, read_table_text, zeros_hint

_FILE_COLUMNS = (
    "file", "image", "path", "filename", "name", "case", "id", "study", "series", "seriesinstanceuid",
    "series_uid", "patientid", "patient_id",
)  # fmt: skip
_SUBJECT_COLUMNS = (
    "subject", "patient", "patientid", "patient_id", "subject_id", "subjectid", "participant_id",
)  # fmt: skip


@dataclass(frozen=True)
class SubjectRule:
    """The user's rule for patients: a regular expression for paths, or a table of files and patients.

    Raises:
        UsageError: for an expression without a group, or a table without the two columns.
    """

    pattern: str | None = None
    table: Path | None = None

    def __post_init__(self) -> None:
        if self.pattern and self.table:
            raise UsageError("--subject-pattern and --subjects exclude each other: expected one of them")
        if self.pattern is not None:
            try:
                groups = re.compile(self.pattern).groups
            except re.error as error:
                raise UsageError(f"--subject-pattern is not a regular expression: {error.msg}") from error
            if not groups:
                raise UsageError(
                    "--subject-pattern: expected a group around the patient, as in '^([^/]+)/' for the first "
                    "folder or '^(.*?)_' for the start of the name"
                )
        if self.table is not None:
            read_subject_table(self.table)

    def __bool__(self) -> bool:
        return bool(self.pattern or self.table)

    def subjects(self, paths: Sequence[str]) -> dict[str, str]:
        """Return the patient of each path.

        Raises:
            DataError: if the rule gives no patient for some of them.
        """
        table = read_subject_table(self.table) if self.table else {}
        if self.pattern is not None:
            matches = {path: re.search(self.pattern, path) for path in paths}
            found = {path: next(filter(None, match.groups()), "") for path, match in matches.items() if match}
        else:
            found = {path: subject for path in paths if (subject := _in_table(table, path))}
        if missing := [path for path in paths if not found.get(path)]:
            places = {place for path in missing for place in _places(path)}
            hint = zeros_hint(table, places.__contains__)
            raise DataError(
                f"no patient for {len(missing)} of {counted(len(paths), 'image')} by --subject-pattern or "
                "--subjects: expected one for each; extend the rule, or exclude files with --role "
                f"'GLOB=skip'{hint}",
                reason="no_subject",
            )
        return found

    def dicom_subjects(self, images: Sequence[tuple[str, str, str]]) -> list[str]:
        """Return the patient of each DICOM image, given its path, SeriesInstanceUID and PatientID.

        In a table, a path or series UID counts before a folder or PatientID, and these before a file name.

        Raises:
            DataError: if the rule gives no patient for some images, or two by folder and PatientID.
        """
        if self.pattern is not None:
            found = self.subjects([path for path, _, _ in images])
            return [found[path] for path, _, _ in images]
        table = read_subject_table(self.table) if self.table else {}
        options = [_in_table_for_dicom(table, *image) for image in images]
        problems = {
            "no patient": sum(not one for one in options),
            "two patients, one by folder and another by PatientID,": sum(len(one) > 1 for one in options),
        }
        lost = [image for image, one in zip(images, options, strict=True) if not one]
        places = {place for path, *others in lost for place in (*_places(path), *others)}
        for problem, count in problems.items():
            if count:
                raise DataError(
                    f"{problem} for {count} of {len(images)} DICOM images by --subjects: expected one "
                    "patient for each; name its path, SeriesInstanceUID, folder or PatientID"
                    f"{zeros_hint(table, places.__contains__)}",
                    reason="no_subject",
                )
        return [one[0] for one in options]


def read_subject_table(path: Path) -> dict[str, str]:
    """Read a CSV file with a column for files and one for patients.

    Raises:
        UsageError: if it cannot be read, lacks a column or gives a file two patients.
    """
    try:
        names, rows = parse_csv(read_table_text(path), delimiters=",;\t")
    except SpreadsheetError as error:
        raise UsageError(f"--subjects '{path}': {error}") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"--subjects '{path}' cannot be read: expected a CSV file") from error
    columns = {str(name).strip().lower(): str(name) for name in names}
    subject = next((columns[name] for name in _SUBJECT_COLUMNS if name in columns), None)
    file = next((columns[name] for name in _FILE_COLUMNS if name in columns), None)
    if subject is None or file is None or subject == file:
        raise UsageError(
            f"--subjects '{path}': expected the columns file and subject, got {', '.join(columns) or 'none'}"
        )
    found: dict[str, str] = {}
    for row in rows:
        name, patient = (str(row[column] or "").strip() for column in (file, subject))
        if name and found.setdefault(name, patient) != patient:
            raise UsageError(f"--subjects '{path}': a file has two patients; expected one for each file")
    return found


def _in_table(table: Mapping[str, str], path: str) -> str:
    """Return the patient of a path, its name, its stem or one of its folders."""
    return next((table[place] for place in _places(path) if table.get(place)), "")


def _places(path: str) -> tuple[str, ...]:
    name = PurePosixPath(path)
    return path, name.name, bare_name(path), bare_name(name.name), *reversed(name.parts[:-1])


def _in_table_for_dicom(table: Mapping[str, str], path: str, series: str, patient: str) -> list[str]:
    """Return the patients that a table gives to a DICOM image: none, one, or two in contradiction."""
    name = PurePosixPath(path)
    folders = [place for folder in name.parents for place in (folder.as_posix(), folder.name)]
    by_folder = next((table[place] for place in folders if table.get(place)), "")
    groups = (
        [table.get(path, "")],
        [table.get(series, "")],
        [by_folder, table.get(patient, "")],
        [table.get(name.name, ""), table.get(bare_name(name.name), "")],
    )
    return next((found for group in groups if (found := sorted(set(filter(None, group))))), [])


@dataclass(frozen=True)
class InferenceRules:
    """What the user decided about an undescribed layout.

    Attributes:
        roles: glob and role of files.
        subjects: rule for patients.
        class_folders: the names of the innermost folders are classes of images.
        expects_labels: whether files that may be labels without images stop the ingestion; in a folder of
            scans to predict, they are images, and doubts about patients do not matter.
        channels: number of channels of a case, if it is known that names such as case_0000 number them.
    """

    roles: tuple[tuple[str, Role], ...] = ()
    subjects: SubjectRule = field(default_factory=SubjectRule)
    class_folders: bool = False
    expects_labels: bool = True
    channels: int = 0

    def skips(self, path: Path, source: Path) -> bool:
        """Return whether the user skips a file by its role."""
        inside = path.is_relative_to(source)
        relative = path.relative_to(source).as_posix() if inside else path.name
        return given_role(relative, self.roles) == "skip"


def given_role(relative: str, given: Sequence[tuple[str, Role]]) -> Role | None:
    """Return the role that the last matching glob gives to a path below the source."""
    name = PurePosixPath(relative).name
    found = [role for glob, role in given if fnmatch(relative, glob) or fnmatch(name, glob)]
    return found[-1] if found else None
