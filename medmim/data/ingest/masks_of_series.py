"""Masks of DICOM series: volume files such as patient1/liver.nii.gz, and masks stored as DICOM images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medmim.data.dicom.header import Header
from medmim.data.ingest.class_masks import Masks, merge_masks
from medmim.data.ingest.context import IngestContext
from medmim.data.ingest.dicom_masks import DicomMask
from medmim.data.ingest.infer_roles import Candidate, Examine, ImageIndex, Roles, apply_given, examine_all
from medmim.data.ingest.label_classes import infer_label_classes
from medmim.data.ingest.label_regions import RegionLabel
from medmim.data.ingest.layout import LayoutQuery
from medmim.data.ingest.path_words import PathWords
from medmim.data.ingest.scan import ScannedFile


@dataclass(frozen=True)
class SeriesMask:
    """A label of DICOM series.

    Attributes:
        numbers: numbers of its files.
        path: file to read.
        series: series that it may belong to.
        class_number: class that it marks, or 0 if it contains class numbers.
        names: names of its classes.
        drawn: codes of overlapping classes, if it was merged from several masks.
    """

    numbers: tuple[int, ...]
    path: Path
    series: tuple[str, ...]
    class_number: int = 0
    names: Mapping[int, str] = field(default_factory=dict)
    drawn: RegionLabel | None = None


def masks_of_series(
    query: LayoutQuery,
    scanned: Mapping[int, ScannedFile],
    paths: Mapping[int, Path],
    *,
    known: Collection[int] = (),
    drawn: Sequence[DicomMask] = (),
) -> list[SeriesMask]:
    """Return the labels of a source that has DICOM series and labels only.

    A label belongs to the series below its folder if these are of one patient, else to those whose folders
    its path names; a mask stored as DICOM belongs to the series of its study. Whether a label lies on their
    grid is checked when it is attached. If a series has several labels, each marks the class of its name.

    Args:
        query: the source, its reader of values, and the roles that the user gave.
        known: files that are labels by another rule.
        drawn: masks stored as DICOM.

    Raises:
        AmbiguousLayoutError: if the labels of a series may be several readings of one finding.
    """
    source, examine = query.source, query.examine
    inside = {number: paths[number] for number in scanned if paths[number].is_relative_to(source)}
    files = {
        number: _candidate(path, source)
        for number, path in inside.items()
        if number not in known and (scanned[number].nifti or scanned[number].reason == "volume_file")
    }
    headers = [(inside[n], one.headers[0]) for n, one in scanned.items() if n in inside and one.headers]
    series = _SeriesIndex(source, headers)
    apply_given(list(files.values()), query.rules.roles)
    unnamed = [one for one in files.values() if one.role is None and series.of_label(one)]
    examine_all(unnamed, examine)
    for one in unnamed:
        one.role = "label" if one.label_like else None
    found: list[tuple[SeriesMask, Candidate]] = []
    if {one.role for one in files.values()} - {"skip"} == {"label"}:
        labels = [(number, one) for number, one in files.items() if one.role == "label"]
        found = [(SeriesMask((n,), one.path, series.of_label(one)), one) for n, one in labels]
    found += [
        (SeriesMask(one.numbers, one.path, series.of_study(one.patient)), _candidate(one.path, source))
        for one in drawn
    ]
    return _with_classes([pair for pair in found if pair[0].series], series, examine)


def _with_classes(
    found: Sequence[tuple[SeriesMask, Candidate]], series: _SeriesIndex, examine: Examine
) -> list[SeriesMask]:
    """Return the masks with the class that each of several masks of a series marks."""
    images = {mask.series[0]: series.images[mask.series[0]] for mask, _ in found}
    labels: dict[Path, list[Candidate]] = defaultdict(list)
    for mask, candidate in found:
        labels[images[mask.series[0]].path].append(candidate)
    roles = Roles({one.path: one for one in images.values()}, labels)
    classes = infer_label_classes(roles, examine)
    numbers = dict(pair for own in classes.labels.values() for pair in own)
    return [
        replace(mask, class_number=number, names={number: classes.names[number]} if number else {})
        for mask, candidate in found
        for number in (numbers[candidate.path],)
    ]


def merge_series_masks(context: IngestContext, masks: Sequence[SeriesMask]) -> list[SeriesMask]:
    """Return the masks, with those of one series that mark one class each merged to one label.

    Masks that cannot be merged are recorded in the ledger.
    """
    groups: dict[tuple[str, ...], list[SeriesMask]] = defaultdict(list)
    for mask in masks:
        groups[mask.series if mask.class_number else (*mask.series, str(mask.path))].append(mask)
    parts: list[Masks] = [tuple((one.path, one.class_number) for one in own) for own in groups.values()]
    names = {number: name for mask in masks for number, name in mask.names.items()}
    merged = merge_masks(context, parts, names, prefix="series-masks")
    result: list[SeriesMask] = []
    for part, own in zip(parts, groups.values(), strict=True):
        label = merged.get(part)
        if label is None:
            result += own
            continue
        numbers = tuple(sorted(number for mask in own for number in mask.numbers))
        if label.reason:
            context.ledger.record(numbers, "quarantined", label.reason)
            continue
        known = {n: names[n] for _, n in part}
        result.append(SeriesMask(numbers, label.file, own[0].series, names=known, drawn=label.regions))
    return result


class _SeriesIndex:
    """The DICOM series of a source: the folder of the first file of each, and its patient."""

    def __init__(self, source: Path, slices: Sequence[tuple[Path, Header]]) -> None:
        self._patients = {header.series: header.patient or header.study for _, header in slices}
        self._studies = {header.series: (header.patient, header.study) for _, header in slices}
        first = {header.series: path.parent / "image.nii" for path, header in reversed(slices)}
        self.images = {one: _candidate(path, source) for one, path in first.items()}
        self._index = ImageIndex(list(self.images.values()))

    def of_label(self, label: Candidate) -> tuple[str, ...]:
        """Return the series that a label may belong to."""
        unit = label.words.unit
        below = [one for one, image in self.images.items() if image.words.unit[: len(unit)] == unit]
        if len({self._patients[one] for one in below}) == 1:
            return tuple(below)
        named = self._index.images_of(label)
        return tuple(one for one, image in self.images.items() if image in named)

    def of_study(self, patient: tuple[str, str]) -> tuple[str, ...]:
        """Return the series of a study, given as patient and study."""
        return tuple(one for one, study in self._studies.items() if study == patient)


def _candidate(path: Path, source: Path) -> Candidate:
    words = PathWords(path.relative_to(source).as_posix())
    return Candidate(path, words, words.role)
