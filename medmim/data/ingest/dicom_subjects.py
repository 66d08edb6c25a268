"""Patients of DICOM files: the user's rule for patients, and headers that leave doubt about them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from medmim.data.dataset.pseudonyms import PERSON_FIELDS
from medmim.data.ingest.layout_rules import SubjectRule
from medmim.data.ingest.path_words import SITE_WORDS, folder_words
from medmim.data.ingest.scan import ScannedFile
from medmim.errors import DataError


def apply_subject_rule(
    rule: SubjectRule, scanned: Mapping[int, ScannedFile], paths: Mapping[int, Path], source: Path
) -> dict[int, ScannedFile]:
    """Return the scanned files with the patients of the user's rule in place of the PatientID.

    Args:
        rule: pattern for paths below the source, or table of files, folders, series UIDs or PatientIDs.

    Raises:
        DataError: if the rule gives an image no patient or two, or divides a series within a folder.
    """
    if not rule:
        return dict(scanned)
    images = {number: one for number, one in scanned.items() if one.header is not None}
    places = {
        number: paths[number].relative_to(source).as_posix()
        if paths[number].is_relative_to(source)
        else paths[number].name
        for number in images
    }
    subjects = rule.dicom_subjects(
        [(places[number], one.headers[0].series, one.headers[0].patient) for number, one in images.items()]
    )
    divided = defaultdict(set)
    for (number, one), subject in zip(images.items(), subjects, strict=True):
        divided[PurePosixPath(places[number]).parent, one.headers[0].series].add(subject)
    if count := sum(len(found) > 1 for found in divided.values()):
        raise DataError(
            f"--subject-pattern or --subjects gives several patients to the files of one DICOM series in "
            f"{count} folders: expected one patient for each; name folders instead of files",
            reason="divided_series",
        )
    named = {
        number: _with_patient(one, subject)
        for (number, one), subject in zip(images.items(), subjects, strict=True)
    }
    return {**scanned, **named}


def _with_patient(one: ScannedFile, subject: str) -> ScannedFile:
    update = {"patient": subject}
    frames = tuple(header.model_copy(update=update) for header in one.frames)
    header = frames[0] if frames else one.headers[0].model_copy(update=update)
    return one.model_copy(update={"header": header, "frames": frames})


def doubtful_patients(
    scanned: Mapping[int, ScannedFile], paths: Mapping[int, Path], source: Path
) -> tuple[dict[str, Any], ...]:
    """Return warnings about patients that may be several people, or one person; they contain counts.

    They may be several if their files disagree about name, birth date or sex (`people` is the least number of
    people), or if one PatientID is in folders of several sites, such as site1 and site2.
    """
    sites: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for number, one in scanned.items():
        if one.header is not None and one.header.patient and paths[number].is_relative_to(source):
            folders = paths[number].relative_to(source).parts[:-1]
            named = tuple(part for part in folders if SITE_WORDS & set(folder_words(part)))
            sites[one.header.patient].add(named)
    doubts = (*contradicting_patients(scanned), *people_with_several_ids(scanned))
    if several := sum(len(found) > 1 for found in sites.values()):
        return (*doubts, {"kind": "patients_of_several_sites", "patients": several})
    return doubts


def contradicting_patients(scanned: Mapping[int, ScannedFile]) -> tuple[dict[str, Any], ...]:
    """Return a warning if files of one patient disagree about name, birth date or sex; it contains counts."""
    found: dict[str, list[set[str]]] = defaultdict(lambda: [set() for _ in PERSON_FIELDS])
    for one in scanned.values():
        if one.header is not None:
            fields = found[one.header.patient or one.header.study]
            for known, digest in zip(fields, one.person, strict=False):
                known.update([digest] if digest else [])
    several = [fields for fields in found.values() if any(len(known) > 1 for known in fields)]
    if not several:
        return ()
    names, birth_dates, sexes = (sum(len(fields[index]) > 1 for fields in several) for index in range(3))
    people = sum(max(map(len, fields)) for fields in several)
    counts = {"patients": len(several), "people": people}
    return (
        {"kind": "patients_contradict", **counts, "names": names, "birth_dates": birth_dates, "sexes": sexes},
    )


def people_with_several_ids(scanned: Mapping[int, ScannedFile]) -> tuple[dict[str, Any], ...]:
    """Return a warning if patients have equal names and birth dates; it contains counts.

    A name and date of most patients are those that an anonymiser writes for everybody.
    """
    patients: dict[tuple[str, str], set[str]] = defaultdict(set)
    everybody: set[str] = set()
    for one in scanned.values():
        if one.header is not None and one.header.patient:
            everybody.add(one.header.patient)
            if len(one.person) > 1 and all(one.person[:2]):
                patients[one.person[0], one.person[1]].add(one.header.patient)
    several = [found for found in patients.values() if 1 < len(found) <= max(2, len(everybody) / 2)]
    if not several:
        return ()
    counts = {"people": len(several), "patients": len(set().union(*several))}
    return ({"kind": "people_with_several_ids", **counts},)
